// The files that tests/golden/tokenizer/make_tokenizer_golden.py made.
#pragma once

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "ciuic/text/tokenizer.hpp"
#include "support/catch.hpp"

inline std::string golden_path(const std::string& name) {
  return std::string(CIUIC_SOURCE_DIR) + "/tests/golden/tokenizer/" + name;
}

inline ciuic::Tokenizer golden_tokenizer(const std::string& name) {
  return ciuic::Tokenizer::load(golden_path(name + ".json")).value();
}

inline std::string read_golden(const std::string& name) {
  std::ifstream file(golden_path(name), std::ios::binary);
  REQUIRE(file.good());
  std::ostringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

inline std::vector<std::string> golden_lines(const std::string& name) {
  std::istringstream text(read_golden(name));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  return lines;
}
