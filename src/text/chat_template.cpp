#include "ciuic/text/chat_template.hpp"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/json.hpp"
#include "base/try.hpp"
#include "text/fields.hpp"
#include "text/template_arguments.hpp"
#include "text/template_budget.hpp"
#include "text/template_builtins.hpp"
#include "text/template_error.hpp"
#include "text/template_filters.hpp"
#include "text/template_is_tests.hpp"
#include "text/template_nodes.hpp"
#include "text/template_operators.hpp"
#include "text/template_parser.hpp"
#include "text/template_value.hpp"
#include "text/unicode.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr std::size_t kMaxOutputBytes = std::size_t{1} << 24;
constexpr std::size_t kMaxVariableNodes = 100'000;
constexpr int kMaxCalls = 20;
constexpr std::size_t kStepsOfIteration = 20;  // what making `loop` costs
constexpr int kMaxDepth = 400;  // of statements and expressions together: bounds the stack

/// The names of one block; looked up from the inside out.
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<std::string, Value>> names = {};

  void set(std::string_view name, Value value) {
    for (auto& [known, slot] : names) {
      if (known == name) {
        slot = std::move(value);
        return;
      }
    }
    names.emplace_back(name, std::move(value));
  }
  const Value* find(std::string_view name) const noexcept {
    for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
      for (const auto& [known, value] : scope->names) {
        if (known == name) return &value;
      }
    }
    return nullptr;
  }
};

/// One run of a template.
class Run {
 public:
  explicit Run(const TemplateNodes& nodes) : nodes_(nodes) {
    for (const char* name : {"raise_exception", "dict", "range", "namespace"}) {
      root_.set(name, Value::callable({.name = name}));
    }
  }
  ~Run() {
    for (auto& space : namespaces_) space->members.clear();  // they may hold each other
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  void set(std::string_view name, Value value) { root_.set(name, std::move(value)); }

  Result<std::string> render() {
    CIUIC_ASSIGN_OR_RETURN(const Flow flow, statements(nodes_.statements, root_));
    (void)flow;
    return std::move(out_);
  }

 private:
  enum class Flow : std::uint8_t { next, break_loop, continue_loop };

  static Error at(Position position, const Error& error) {
    if (error.message().starts_with("chat template ")) return error;
    return template_error(error.code(), position, error.message());
  }
  /// Puts the position before an error that has none.
  template <class T>
  static Result<T> at(Position position, Result<T> result) {
    if (!result) return at(position, result.error());
    return result;
  }

  Result<void> print(std::string_view text, Position position) {
    if (out_.size() + text.size() > kMaxOutputBytes) {
      return template_error(ErrorCode::oversize, position, "more than 16 MiB of text");
    }
    out_ += text;
    return {};
  }

  // ---- Statements

  /// Counts nesting while it lives.
  struct Nested {
    explicit Nested(int& depth) : depth_(depth) { ++depth_; }
    ~Nested() { --depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;
    int& depth_;
  };

  Result<Flow> statements(const std::vector<Statement>& list, Scope& scope) {
    const Nested nested(depth_);
    for (const Statement& statement : list) {
      CIUIC_TRY(at(statement.position, budget_.charge(1)));
      if (depth_ > kMaxDepth) {
        return template_error(ErrorCode::oversize, statement.position, "nested too deep");
      }
      CIUIC_ASSIGN_OR_RETURN(const Flow flow, execute(statement, scope));
      if (flow != Flow::next) return flow;
    }
    return Flow::next;
  }

  Result<Flow> execute(const Statement& statement, Scope& scope) {
    switch (statement.kind) {
      case Statement::Kind::text:
        CIUIC_TRY(print(statement.text, statement.position));
        return Flow::next;
      case Statement::Kind::output: {
        CIUIC_ASSIGN_OR_RETURN(const Value value, evaluate(statement.expression, scope));
        CIUIC_TRY(at(statement.position, budget_.charge(value.weight())));
        std::string text;
        append_str(text, value);
        CIUIC_TRY(print(text, statement.position));
        return Flow::next;
      }
      case Statement::Kind::condition:
        for (const auto& [test, body] : statement.branches) {
          bool taken = true;
          if (test != kNoExpression) {
            CIUIC_ASSIGN_OR_RETURN(const Value value, evaluate(test, scope));
            taken = value.truth();
          }
          if (taken) return statements(body, scope);
        }
        return Flow::next;
      case Statement::Kind::loop:
        return loop(statement, scope);
      case Statement::Kind::set: {
        CIUIC_ASSIGN_OR_RETURN(Value value, evaluate(statement.expression, scope));
        if (!statement.text.empty()) {
          CIUIC_TRY(set_member(statement, scope, std::move(value)));
        } else {
          CIUIC_TRY(at(statement.position, assign(statement.names, std::move(value), scope)));
        }
        return Flow::next;
      }
      case Statement::Kind::set_block: {
        Scope inner{.parent = &scope};
        CIUIC_ASSIGN_OR_RETURN(Value text, capture(statement.body, inner));
        scope.set(statement.names[0], std::move(text));
        return Flow::next;
      }
      case Statement::Kind::macro:
        macros_.push_back(&statement);
        scope.set(statement.names[0],
                  Value::callable({.name = statement.names[0],
                                   .macro = static_cast<std::int64_t>(macros_.size()) - 1}));
        return Flow::next;
      case Statement::Kind::scope: {
        Scope inner{.parent = &scope};
        return statements(statement.body, inner);
      }
      case Statement::Kind::break_loop:
        return Flow::break_loop;
      case Statement::Kind::continue_loop:
        return Flow::continue_loop;
    }
    return Flow::next;
  }

  /// What statements print, as a value.
  Result<Value> capture(const std::vector<Statement>& body, Scope& scope) {
    std::string before = std::exchange(out_, std::string());
    Result<Flow> flow = statements(body, scope);
    std::string text = std::exchange(out_, std::move(before));
    if (!flow) return flow.error();
    return Value::string(std::move(text));
  }

  Result<void> assign(const std::vector<std::string>& names, Value value, Scope& scope) {
    if (names.size() == 1) {
      scope.set(names[0], std::move(value));
      return {};
    }
    CIUIC_ASSIGN_OR_RETURN(std::vector<Value> items, iterate(value));
    if (items.size() != names.size()) {
      return Error(ErrorCode::invalid_argument, {std::to_string(items.size()), " values for ",
                                                 std::to_string(names.size()), " names"});
    }
    for (std::size_t i = 0; i < names.size(); ++i) scope.set(names[i], std::move(items[i]));
    return {};
  }

  Result<void> set_member(const Statement& statement, Scope& scope, Value value) {
    const Value* target = scope.find(statement.text);
    if (target == nullptr || !target->is_namespace()) {
      return template_error(ErrorCode::invalid_argument, statement.position,
                            quoted(statement.text) + " is no namespace");
    }
    auto& members = target->as_namespace().members;
    for (auto& [name, slot] : members) {
      if (name == statement.names[0]) {
        slot = std::move(value);
        return {};
      }
    }
    members.emplace_back(statement.names[0], std::move(value));
    return {};
  }

  Result<Flow> loop(const Statement& statement, Scope& scope) {
    CIUIC_ASSIGN_OR_RETURN(const Value over, evaluate(statement.expression, scope));
    CIUIC_TRY(at(statement.position, budget_.charge(over.weight())));
    CIUIC_ASSIGN_OR_RETURN(std::vector<Value> items, at(statement.position, iterate(over)));
    if (statement.filter != kNoExpression) {
      std::vector<Value> kept;
      for (Value& item : items) {
        Scope inner{.parent = &scope};
        CIUIC_TRY(at(statement.position, assign(statement.names, item, inner)));
        CIUIC_ASSIGN_OR_RETURN(const Value keep, evaluate(statement.filter, inner));
        if (keep.truth()) kept.push_back(std::move(item));
      }
      items = std::move(kept);
    }
    if (items.empty()) {
      Scope inner{.parent = &scope};
      return statements(statement.otherwise, inner);
    }
    const std::size_t n = items.size();
    for (std::size_t i = 0; i < n; ++i) {
      CIUIC_TRY(at(statement.position, budget_.charge(kStepsOfIteration)));
      Scope inner{.parent = &scope};
      const auto number = [](std::size_t v) {
        return Value::integer(static_cast<std::int64_t>(v));
      };
      std::vector<std::pair<std::string, Value>> loop{
          {"index", number(i + 1)},
          {"index0", number(i)},
          {"revindex", number(n - i)},
          {"revindex0", number(n - i - 1)},
          {"first", Value::boolean(i == 0)},
          {"last", Value::boolean(i + 1 == n)},
          {"length", number(n)},
          {"depth", number(1)},
          {"depth0", number(0)},
          {"previtem", i > 0 ? items[i - 1] : Value::undefined("loop.previtem")},
          {"nextitem", i + 1 < n ? items[i + 1] : Value::undefined("loop.nextitem")},
          {"cycle", Value::callable({.name = "cycle", .self = number(i)})}};
      CIUIC_ASSIGN_OR_RETURN(Value loop_value,
                             at(statement.position, Value::dict(std::move(loop))));
      inner.set("loop", std::move(loop_value));
      CIUIC_TRY(at(statement.position, assign(statement.names, items[i], inner)));
      CIUIC_ASSIGN_OR_RETURN(const Flow flow, statements(statement.body, inner));
      if (flow == Flow::break_loop) break;
    }
    return Flow::next;
  }

  // ---- Expressions

  Result<Value> evaluate(ExpressionId id, Scope& scope) {
    const Expression& node = nodes_.expressions[id];
    CIUIC_TRY(at(node.position, budget_.charge(1)));
    const Nested nested(depth_);
    if (depth_ > kMaxDepth) {
      return template_error(ErrorCode::oversize, node.position, "nested too deep");
    }
    return at(node.position, compute(node, scope));
  }

  Result<Value> compute(const Expression& node, Scope& scope) {
    using Kind = Expression::Kind;
    const auto child = [&](std::size_t i) { return evaluate(node.children[i], scope); };
    switch (node.kind) {
      case Kind::constant:
        return node.value;
      case Kind::name: {
        const Value* found = scope.find(node.text);
        return found != nullptr ? *found : Value::undefined(node.text);
      }
      case Kind::list:
      case Kind::tuple: {
        std::vector<Value> items;
        for (std::size_t i = 0; i < node.children.size(); ++i) {
          CIUIC_ASSIGN_OR_RETURN(Value item, child(i));
          items.push_back(std::move(item));
        }
        return Value::list(std::move(items), node.kind == Kind::tuple);
      }
      case Kind::dict: {
        std::vector<std::pair<std::string, Value>> members;
        for (std::size_t i = 0; i < node.children.size(); i += 2) {
          CIUIC_ASSIGN_OR_RETURN(const Value key, child(i));
          CIUIC_ASSIGN_OR_RETURN(Value value, child(i + 1));
          if (!key.is_string()) {
            return Error(ErrorCode::invalid_argument,
                         {"a mapping's key: wanted a string, got ", key.type_name()});
          }
          const auto same = std::find_if(members.begin(), members.end(),
                                         [&](const auto& m) { return m.first == key.as_string(); });
          if (same != members.end()) {
            same->second = std::move(value);
          } else {
            members.emplace_back(key.as_string(), std::move(value));
          }
        }
        return Value::dict(std::move(members));
      }
      case Kind::attribute: {
        CIUIC_ASSIGN_OR_RETURN(const Value object, child(0));
        return get_attribute(object, node.text);
      }
      case Kind::subscript: {
        CIUIC_ASSIGN_OR_RETURN(const Value object, child(0));
        CIUIC_ASSIGN_OR_RETURN(const Value key, child(1));
        if (object.is_string()) CIUIC_TRY(budget_.charge(object.weight()));
        return get_item(object, key);
      }
      case Kind::slice: {
        CIUIC_ASSIGN_OR_RETURN(const Value object, child(0));
        Value parts[3];
        for (std::size_t i = 0; i < 3; ++i) {
          if (node.children[i + 1] == kNoExpression) continue;
          CIUIC_ASSIGN_OR_RETURN(parts[i], child(i + 1));
        }
        CIUIC_TRY(budget_.charge(object.weight()));
        return get_slice(object, parts[0], parts[1], parts[2]);
      }
      case Kind::call:
        return call(node, scope);
      case Kind::filter: {
        CIUIC_ASSIGN_OR_RETURN(const Value input, child(0));
        CIUIC_ASSIGN_OR_RETURN(const Arguments given, arguments(node, scope));
        return call_filter(node.text, input, given, budget_);
      }
      case Kind::test: {
        CIUIC_ASSIGN_OR_RETURN(const Value input, child(0));
        CIUIC_ASSIGN_OR_RETURN(const Arguments given, arguments(node, scope));
        CIUIC_TRY(budget_.charge(input.weight()));
        CIUIC_ASSIGN_OR_RETURN(const bool passes, call_test(node.text, input, given));
        return Value::boolean(passes);
      }
      case Kind::negate:
      case Kind::plus: {
        CIUIC_ASSIGN_OR_RETURN(const Value operand, child(0));
        return binary_operator(node.kind == Kind::negate ? "-" : "+", Value::integer(0), operand,
                               budget_);
      }
      case Kind::logical_not: {
        CIUIC_ASSIGN_OR_RETURN(const Value operand, child(0));
        return Value::boolean(!operand.truth());
      }
      case Kind::logical_and:
      case Kind::logical_or: {
        CIUIC_ASSIGN_OR_RETURN(Value left, child(0));
        if (left.truth() == (node.kind == Kind::logical_or)) return left;
        return child(1);
      }
      case Kind::binary: {
        CIUIC_ASSIGN_OR_RETURN(const Value left, child(0));
        CIUIC_ASSIGN_OR_RETURN(const Value right, child(1));
        if (node.text == "~") CIUIC_TRY(budget_.charge(left.weight() + right.weight()));
        return binary_operator(node.text, left, right, budget_);
      }
      case Kind::compare:
        return compare(node, scope);
      case Kind::conditional: {
        CIUIC_ASSIGN_OR_RETURN(const Value test, child(1));
        if (test.truth()) return child(0);
        if (node.children[2] == kNoExpression) return Value::undefined("the missing else");
        return child(2);
      }
    }
    return Error(ErrorCode::internal, "no such expression");
  }

  Result<Value> compare(const Expression& node, Scope& scope) {
    CIUIC_ASSIGN_OR_RETURN(Value left, evaluate(node.children[0], scope));
    for (std::size_t i = 0; i < node.operators.size(); ++i) {
      CIUIC_ASSIGN_OR_RETURN(Value right, evaluate(node.children[i + 1], scope));
      CIUIC_TRY(budget_.charge(left.weight() + right.weight()));
      const std::string& op = node.operators[i];
      bool holds = false;
      if (op == "==" || op == "!=") {
        holds = equal(left, right) == (op == "==");
      } else if (op == "in" || op == "not in") {
        CIUIC_ASSIGN_OR_RETURN(const bool inside, contains(right, left));
        holds = inside == (op == "in");
      } else {
        const bool swapped = op == ">" || op == "<=";
        const std::optional<bool> before = swapped ? less(right, left) : less(left, right);
        if (!before) {
          const Value& undefined = left.is_undefined() ? left : right;
          if (undefined.is_undefined()) {
            return Error(ErrorCode::invalid_argument,
                         {quoted(undefined.undefined_name()), " is undefined"});
          }
          return Error(ErrorCode::invalid_argument,
                       {left.type_name(), " ", op, " ", right.type_name()});
        }
        holds = *before != (op == "<=" || op == ">=");
      }
      if (!holds) return Value::boolean(false);
      left = std::move(right);
    }
    return Value::boolean(true);
  }

  Result<Arguments> arguments(const Expression& node, Scope& scope) {
    Arguments out;
    for (std::size_t i = 1; i < node.children.size(); ++i) {
      CIUIC_ASSIGN_OR_RETURN(Value value, evaluate(node.children[i], scope));
      out.positional.push_back(std::move(value));
    }
    for (const auto& [name, id] : node.keywords) {
      CIUIC_ASSIGN_OR_RETURN(Value value, evaluate(id, scope));
      out.named.emplace_back(name, std::move(value));
    }
    return out;
  }

  Result<Value> call(const Expression& node, Scope& scope) {
    CIUIC_ASSIGN_OR_RETURN(const Value target, evaluate(node.children[0], scope));
    if (target.is_undefined()) {
      return Error(ErrorCode::invalid_argument, {quoted(target.undefined_name()), " is undefined"});
    }
    if (!target.is_callable()) {
      return Error(ErrorCode::invalid_argument, {target.type_name(), " cannot be called"});
    }
    CIUIC_ASSIGN_OR_RETURN(Arguments given, arguments(node, scope));
    const CallableValue& callable = target.as_callable();
    if (callable.macro >= 0) return call_macro(callable, std::move(given));
    if (callable.name == "namespace" && !callable.self) {
      if (!given.positional.empty()) {
        return Error(ErrorCode::invalid_argument, "namespace: wanted named arguments");
      }
      namespaces_.push_back(std::make_unique<NamespaceValue>());
      namespaces_.back()->members = std::move(given.named);
      return Value::name_space(namespaces_.back().get());
    }
    return call_builtin(callable, given, budget_);
  }

  Result<Value> call_macro(const CallableValue& callable, Arguments given) {
    const Statement& macro = *macros_[static_cast<std::size_t>(callable.macro)];
    if (calls_ >= kMaxCalls) {
      return Error(ErrorCode::oversize,
                   {callable.name, ": macros nested deeper than ", std::to_string(kMaxCalls)});
    }
    Scope inner{.parent = &root_};
    if (given.positional.size() > macro.parameters.size()) {
      return Error(ErrorCode::invalid_argument,
                   {callable.name, ": ", std::to_string(given.positional.size()),
                    " arguments, wanted at most ", std::to_string(macro.parameters.size())});
    }
    for (const auto& [name, value] : given.named) {
      const auto known = std::find_if(macro.parameters.begin(), macro.parameters.end(),
                                      [&](const auto& p) { return p.first == name; });
      if (known == macro.parameters.end()) {
        return Error(ErrorCode::invalid_argument,
                     {callable.name, ": unknown argument ", quoted(name)});
      }
      if (static_cast<std::size_t>(known - macro.parameters.begin()) < given.positional.size()) {
        return Error(ErrorCode::invalid_argument,
                     {callable.name, ": argument ", quoted(name), " is given twice"});
      }
    }
    for (std::size_t i = 0; i < macro.parameters.size(); ++i) {
      const auto& [name, fallback] = macro.parameters[i];
      Value value = Value::undefined(name);
      const auto named = std::find_if(given.named.begin(), given.named.end(),
                                      [&](const auto& argument) { return argument.first == name; });
      if (i < given.positional.size()) {
        value = std::move(given.positional[i]);
      } else if (named != given.named.end()) {
        value = std::move(named->second);
      } else if (fallback != kNoExpression) {
        CIUIC_ASSIGN_OR_RETURN(value, evaluate(fallback, inner));
      }
      inner.set(name, std::move(value));
    }
    ++calls_;
    Result<Value> text = capture(macro.body, inner);
    --calls_;
    return text;
  }

  const TemplateNodes& nodes_;
  Scope root_;
  std::string out_;
  TemplateBudget budget_;
  std::vector<const Statement*> macros_;
  std::vector<std::unique_ptr<NamespaceValue>> namespaces_;
  int depth_ = 0;
  int calls_ = 0;
};

Result<JsonValue> parse_object(std::string_view json, std::string_view what) {
  Result<JsonValue> parsed = JsonValue::parse(json, {}, kMaxVariableNodes);
  if (!parsed) {
    return Error(ErrorCode::invalid_argument, {what, ": ", parsed.error().message()});
  }
  if (!parsed->is_object()) {
    return Error(ErrorCode::invalid_argument,
                 {what, ": wanted an object, got ", describe(parsed->kind())});
  }
  return parsed;
}

/// Text from outside, as valid UTF-8.
Value text_value(std::string_view text) {
  std::string repaired;
  append_repaired_utf8(repaired, text);
  return Value::string(std::move(repaired));
}

}  // namespace

Result<ChatTemplate> ChatTemplate::parse(std::string_view text) {
  CIUIC_ASSIGN_OR_RETURN(TemplateNodes nodes, parse_template(text));
  return ChatTemplate(std::make_shared<const TemplateNodes>(std::move(nodes)));
}

Result<std::string> ChatTemplate::apply(std::span<const ChatMessage> messages,
                                        const ChatTemplateOptions& options) const {
  Run run(*nodes_);
  std::vector<Value> list;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    std::vector<std::pair<std::string, Value>> members{{"role", text_value(message.role)},
                                                       {"content", text_value(message.content)}};
    if (!message.more_json.empty()) {
      CIUIC_ASSIGN_OR_RETURN(
          const JsonValue more,
          parse_object(message.more_json, "messages[" + std::to_string(i) + "].more_json"));
      for (const auto& [name, member] : more.members()) {
        CIUIC_ASSIGN_OR_RETURN(Value value, Value::from_json(member));
        const auto known = std::find_if(members.begin(), members.end(),
                                        [&](const auto& m) { return m.first == name; });
        if (known != members.end()) {
          known->second = std::move(value);
        } else {
          members.emplace_back(name, std::move(value));
        }
      }
    }
    CIUIC_ASSIGN_OR_RETURN(Value value, Value::dict(std::move(members)));
    list.push_back(std::move(value));
  }
  CIUIC_ASSIGN_OR_RETURN(Value all, Value::list(std::move(list)));
  run.set("messages", std::move(all));
  run.set("add_generation_prompt", Value::boolean(options.add_generation_prompt));
  run.set("bos_token", text_value(options.bos_token));
  run.set("eos_token", text_value(options.eos_token));
  if (!options.variables_json.empty()) {
    CIUIC_ASSIGN_OR_RETURN(const JsonValue variables,
                           parse_object(options.variables_json, "variables_json"));
    for (const auto& [name, member] : variables.members()) {
      CIUIC_ASSIGN_OR_RETURN(Value value, Value::from_json(member));
      run.set(name, std::move(value));
    }
  }
  return run.render();
}

}  // namespace ciuic::inline CIUIC_ABI
