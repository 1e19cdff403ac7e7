// A progress bar on stderr, and only on a terminal.
#pragma once

#include <cstdio>
#include <string>

#include "command.hpp"

namespace ciuic::tool {

class Progress {
 public:
  Progress(std::string title, std::size_t total)
      : title_(std::move(title)), total_(stderr_is_terminal() ? total : 0) {
    draw();
  }
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance() {
    ++done_;
    draw();
  }
  /// Takes the bar off the line, for example before other output.
  void clear() {
    if (drawn_) std::fprintf(stderr, "\r\033[K");
    drawn_ = false;
  }

 private:
  void draw() {
    if (total_ == 0) return;
    constexpr std::size_t kWidth = 32;
    const std::size_t filled = done_ * kWidth / total_;
    std::fprintf(stderr, "\r\033[K%s [%s%s] %zu/%zu", title_.c_str(),
                 std::string(filled, '#').c_str(), std::string(kWidth - filled, ' ').c_str(), done_,
                 total_);
    std::fflush(stderr);
    drawn_ = true;
  }

  std::string title_;
  std::size_t total_, done_ = 0;
  bool drawn_ = false;
};

}  // namespace ciuic::tool
