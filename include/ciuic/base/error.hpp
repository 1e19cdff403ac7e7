// Errors as values: Error says what went wrong, Result<T> is a T or an Error.
#pragma once

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <optional>
#include <string_view>
#include <utility>

#include "ciuic/base/version.hpp"

#if defined(__cpp_exceptions)
#include <stdexcept>
#include <string>
#endif

namespace ciuic::inline CIUIC_ABI {

/// Why something failed. The name says whose move it is: the caller's (`invalid_argument`), the
/// file's (`bad_model`), the load's (`queue_full`), the clock's (`expired`) or ours (`internal`).
enum class ErrorCode : std::uint8_t {
  invalid_argument,  ///< a parameter is outside what the function documents
  not_found,         ///< a file, tensor or token that was named does not exist
  bad_model,         ///< a model directory breaks its format or contradicts itself
  unsupported,       ///< well-formed, but nothing here implements it
  io_error,          ///< the operating system refused a read or a write
  out_of_memory,     ///< host or device memory, or a memory budget, is used up
  oversize,          ///< one request is larger than any batch may be
  queue_full,        ///< the bound on waiting or outstanding requests is reached; try later
  cancelled,         ///< the caller gave the request up
  shed,           ///< accepted, then given up under overload for one that matters at least as much
  expired,        ///< the deadline passed before an answer existed
  infeasible,     ///< refused: the answer would most likely come after the deadline
  shutting_down,  ///< the batcher or engine is stopping and takes nothing new
  contract_violation,  ///< a model broke its side, for example too few results for a batch
  model_failed,        ///< the model reported an error or threw
  would_deadlock,      ///< the call would wait for the thread it is made from
  device_lost,         ///< the device reported a failure that no retry can mend
  internal,            ///< a bug in ciuic
};

/// The code's name as written above, for example "queue_full".
constexpr std::string_view to_string(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::invalid_argument:
      return "invalid_argument";
    case ErrorCode::not_found:
      return "not_found";
    case ErrorCode::bad_model:
      return "bad_model";
    case ErrorCode::unsupported:
      return "unsupported";
    case ErrorCode::io_error:
      return "io_error";
    case ErrorCode::out_of_memory:
      return "out_of_memory";
    case ErrorCode::oversize:
      return "oversize";
    case ErrorCode::queue_full:
      return "queue_full";
    case ErrorCode::cancelled:
      return "cancelled";
    case ErrorCode::shed:
      return "shed";
    case ErrorCode::expired:
      return "expired";
    case ErrorCode::infeasible:
      return "infeasible";
    case ErrorCode::shutting_down:
      return "shutting_down";
    case ErrorCode::contract_violation:
      return "contract_violation";
    case ErrorCode::model_failed:
      return "model_failed";
    case ErrorCode::would_deadlock:
      return "would_deadlock";
    case ErrorCode::device_lost:
      return "device_lost";
    case ErrorCode::internal:
      return "internal";
  }
  return "unknown";
}

/// A code and a message of one line: what, where, wanted, got.
///
/// Construction and copying cannot fail: where memory for the text is refused, the code's name
/// stands in for the message. Copies share the text. Thread-safety: thread-compatible.
class [[nodiscard]] Error {
 public:
  /// The message is the concatenation of `parts`, joined without separators. Line breaks and other
  /// control characters in them (what() of somebody else's exception) become spaces.
  Error(ErrorCode code, std::initializer_list<std::string_view> parts) noexcept : code_(code) {
    std::size_t length = 0;
    for (std::string_view part : parts) length += part.size();
    void* block = ::operator new(sizeof(Text) + length + 1, std::nothrow);
    if (block == nullptr) return;
    text_ = ::new (block) Text{{1}, length};
    char* out = text_->chars();
    for (std::string_view part : parts) {
      for (const char c : part) *out++ = static_cast<unsigned char>(c) < 32 ? ' ' : c;
    }
    *out = '\0';
  }
  Error(ErrorCode code, std::string_view message) noexcept : Error(code, {message}) {}
  /// An error without words of its own: the code says it all.
  explicit Error(ErrorCode code) noexcept : code_(code) {}

  Error(const Error& other) noexcept : code_(other.code_), text_(other.text_) {
    if (text_ != nullptr) text_->references.fetch_add(1, std::memory_order_relaxed);
  }
  Error(Error&& other) noexcept : code_(other.code_), text_(std::exchange(other.text_, nullptr)) {}
  Error& operator=(Error other) noexcept {
    std::swap(code_, other.code_);
    std::swap(text_, other.text_);
    return *this;
  }
  ~Error() {
    if (text_ != nullptr && text_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      ::operator delete(text_);
    }
  }

  ErrorCode code() const noexcept { return code_; }
  /// Valid as long as this error or a copy of it lives. A zero follows it, so that `data()` serves
  /// where C wants a string.
  std::string_view message() const noexcept {
    return text_ == nullptr ? to_string(code_) : std::string_view(text_->chars(), text_->length);
  }
  /// The same code with `prefix` put before the message: adds the "where" on the way up.
  Error with_prefix(std::string_view prefix) const noexcept {
    return Error(code_, {prefix, message()});
  }

 private:
  struct Text {
    std::atomic<std::uint32_t> references;
    std::size_t length;
    char* chars() noexcept { return reinterpret_cast<char*>(this + 1); }
  };
  ErrorCode code_;
  Text* text_ = nullptr;
};

#if defined(__cpp_exceptions)
/// What `Result::value()` throws, for hosts that like exceptions. The library itself throws
/// nothing.
class BadResult : public std::runtime_error {
 public:
  explicit BadResult(const Error& error)
      : std::runtime_error(std::string(to_string(error.code())) + ": " +
                           std::string(error.message())),
        error_(error) {}
  const Error& error() const noexcept { return error_; }

 private:
  Error error_;
};
#endif

/// A `T`, or the reason why there is none.
///
/// `if (result) use(*result); else report(result.error());`, or `load().value()` where exceptions
/// are welcome. Reading the value of a failed result, or the error of a good one, is a broken
/// precondition. Thread-safety: thread-compatible.
template <class T>
class [[nodiscard]] Result {
 public:
  using value_type = T;

  Result(T value) noexcept(std::is_nothrow_move_constructible_v<T>)  // NOLINT: implicit on purpose
      : value_(std::move(value)) {}
  Result(Error error) noexcept : error_(std::move(error)) {}  // NOLINT: implicit on purpose

  bool has_value() const noexcept { return value_.has_value(); }
  explicit operator bool() const noexcept { return has_value(); }

  T& operator*() & noexcept { return *value_; }
  const T& operator*() const& noexcept { return *value_; }
  T&& operator*() && noexcept { return *std::move(value_); }
  T* operator->() noexcept { return &*value_; }
  const T* operator->() const noexcept { return &*value_; }

  const Error& error() const& noexcept { return error_; }
  Error&& error() && noexcept { return std::move(error_); }

#if defined(__cpp_exceptions)
  T& value() & { return require(), *value_; }
  const T& value() const& { return require(), *value_; }
  T&& value() && { return require(), *std::move(value_); }
#endif
  T value_or(T fallback) && { return has_value() ? *std::move(value_) : std::move(fallback); }

 private:
#if defined(__cpp_exceptions)
  void require() const {
    if (!has_value()) throw BadResult(error_);
  }
#endif
  std::optional<T> value_;
  Error error_{ErrorCode::internal};
};

/// Success, or the reason of the failure.
template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;

  Result() noexcept = default;
  Result(Error error) noexcept : error_(std::move(error)) {}  // NOLINT: implicit on purpose

  bool has_value() const noexcept { return !error_.has_value(); }
  explicit operator bool() const noexcept { return has_value(); }
  const Error& error() const& noexcept { return *error_; }
  Error&& error() && noexcept { return *std::move(error_); }
#if defined(__cpp_exceptions)
  void value() const {
    if (!has_value()) throw BadResult(*error_);
  }
#endif

 private:
  std::optional<Error> error_;
};

}  // namespace ciuic::inline CIUIC_ABI
