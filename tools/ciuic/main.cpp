// The `ciuic` command: the library from a shell. One source file for each subcommand.
#include <cstdio>
#include <exception>

#include "command.hpp"

namespace ciuic::tool {
namespace {

/// CLI11 would only say that a subcommand is missing.
void refuse_unknown_command(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || *argv[1] == '-') return;
  std::string names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->get_name() == argv[1]) return;
    names += (names.empty() ? "" : ", ") + command->get_name();
  }
  throw Failure(kWrongUsage, std::string(argv[1]) + ": no such command; wanted one of " + names);
}

}  // namespace
}  // namespace ciuic::tool

int main(int argc, char** argv) {
  using namespace ciuic::tool;
  CLI::App app(
      "Text in, text out, many at once: run Hugging Face model directories of the Llama family.",
      "ciuic");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::to_string(ciuic::kVersionMajor) + "." +
                                        std::to_string(ciuic::kVersionMinor) + "." +
                                        std::to_string(ciuic::kVersionPatch));
  add_generate(app);
  add_score(app);
  add_tokenize(app);
  add_inspect(app);
  add_bench(app);
  add_quantize(app);
  try {
    refuse_unknown_command(app, argc, argv);
    app.parse(argc, argv);  // runs the subcommand's callback
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
      throw Failure(kRequestFailed, "stdout: cannot be written");
    }
    return kDone;
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "ciuic: %s\n", error.what());
    return kWrongUsage;
  } catch (const Failure& failure) {
    std::fprintf(stderr, "ciuic: %s\n", failure.what());
    return failure.status;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ciuic: %s\n", error.what());
    return kRequestFailed;
  }
}
