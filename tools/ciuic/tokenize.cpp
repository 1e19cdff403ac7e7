// ciuic tokenize: text to ids and back.
#include <cstdio>
#include <memory>
#include <sstream>

#include "command.hpp"

namespace ciuic::tool {
namespace {

struct Flags {
  std::string directory, text, text_file, decode;
  bool parse_special = false, json = false;
};

std::vector<TokenId> parse_ids(const std::string& list) {
  std::vector<TokenId> ids;
  std::string separated;
  if (!list.empty()) {
    for (const std::string& item : split_list("--decode", list)) separated += item + " ";
  }
  std::istringstream in(separated);
  for (std::string word; in >> word;) {
    std::size_t used = 0;
    long long id = -1;
    try {
      id = std::stoll(word, &used);
    } catch (const std::exception&) {
    }
    if (used != word.size() || id < 0 || id > 0x7FFFFFFF) {
      throw Failure(kWrongUsage, "--decode: wanted ids such as 12,7,30, got " + word);
    }
    ids.push_back(static_cast<TokenId>(id));
  }
  return ids;
}

void run(const Flags& flags, bool decoding) {
  ModelFlags model;
  model.directory = flags.directory;
  const Tokenizer tokenizer = model.load_tokenizer();
  if (decoding) {
    const std::vector<TokenId> ids = parse_ids(flags.decode);
    for (TokenId id : ids) {
      if (!tokenizer.token_of(id))
        throw Failure(kRequestFailed, "--decode: no token has the id " + std::to_string(id));
    }
    const Result<std::string> text = tokenizer.decode(ids);
    if (!text) throw Failure(kRequestFailed, text.error());
    if (flags.json) return print_json({{"text", *text}});
    std::printf("%s\n", text->c_str());
    return;
  }
  const std::string text = flags.text_file.empty() ? flags.text : read_file(flags.text_file);
  const auto ids = tokenizer.encode(text, {.parse_special = flags.parse_special});
  if (!ids) throw Failure(kRequestFailed, ids.error());
  if (flags.json) return print_json({{"ids", *ids}});
  for (std::size_t i = 0; i < ids->size(); ++i) std::printf(i == 0 ? "%d" : " %d", (*ids)[i]);
  std::printf("\n");
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("tokenize", "Turn text into token ids, or ids into text");
  command->add_option("--model", flags->directory, "Directory with tokenizer.json")
      ->required()
      ->type_name("DIR");
  auto* what = command->add_option_group("input", "what to convert");
  what->add_option("--text", flags->text, "Text to encode");
  what->add_option("--text-file", flags->text_file, "File to encode")->type_name("FILE");
  const CLI::Option* decode =
      what->add_option("--decode", flags->decode, "Ids to decode, such as 12,7,30")
          ->type_name("IDS");
  what->require_option(1);
  command->add_flag("--parse-special", flags->parse_special,
                    "Literals of special tokens are those tokens");
  command->add_flag("--json", flags->json, "Print one JSON object on stdout");
  command->callback([flags, decode] { run(*flags, decode->count() > 0); });
}

}  // namespace ciuic::tool
