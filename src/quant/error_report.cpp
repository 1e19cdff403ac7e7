#include "ciuic/quant/error_report.hpp"

#include <algorithm>
#include <cstdio>

namespace ciuic::inline CIUIC_ABI {
namespace {

std::string format_text(const MatrixFormat& format) {
  std::string text(to_string(format.dtype));
  if (format.dtype == DType::i4) text.append("/").append(std::to_string(format.group));
  return text;
}

std::string db_text(double db) {
  if (std::isinf(db) && db > 0) return "exact";
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", db);
  return text;
}

template <class... Args>
std::string formatted(const char* pattern, Args... args) {
  char text[512];
  const int size = std::snprintf(text, sizeof text, pattern, args...);
  return std::string(text, static_cast<std::size_t>(std::clamp(size, 0, 511)));
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '&') {
      out += "&amp;";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

std::string error_table(std::span<const MatrixReport> matrices) {
  std::size_t width = 6;
  for (const MatrixReport& m : matrices) width = std::max(width, m.name.size());
  const int name_width = static_cast<int>(std::min<std::size_t>(width, 80));
  std::string text = formatted("%-*s  %-7s  %10s  %8s  %8s  %16s  %s\n", name_width, "matrix",
                               "held as", "KiB", "SNR dB", "out dB", "worst row dB", "cosine");
  for (const MatrixReport& m : matrices) {
    const std::string worst =
        m.error.worst_row() < 0
            ? "-"
            : db_text(m.error.worst_row_db()) + " (" + std::to_string(m.error.worst_row()) + ")";
    text += formatted("%-*s  %-7s  %10.1f  %8s  %8s  %16s  %.6f\n", name_width, m.name.c_str(),
                      format_text(m.format).c_str(), static_cast<double>(m.bytes) / 1024.0,
                      db_text(m.error.signal_to_noise_db()).c_str(),
                      db_text(m.error.output_signal_to_noise_db()).c_str(), worst.c_str(),
                      m.error.cosine());
  }
  return text;
}

std::string error_picture(std::span<const MatrixReport> matrices) {
  // A line of 16 pixels for each matrix; the axis reaches 60 dB, beyond which nobody looks.
  constexpr double kLeft = 260, kWidth = 420, kTop = 46, kLine = 16, kMostDb = 60;
  const double height = kTop + kLine * static_cast<double>(matrices.size()) + 14;
  const auto x_of = [&](double db) {
    return kLeft + kWidth * std::clamp(std::isnan(db) ? 0.0 : db, 0.0, kMostDb) / kMostDb;
  };
  std::string svg = formatted(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"%.0f\" "
      "font-family=\"sans-serif\" font-size=\"10\">\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
      "<text x=\"10\" y=\"18\" font-size=\"13\">Signal to noise of the weights, dB</text>\n"
      "<text x=\"10\" y=\"34\" fill=\"#777\">bar: matrix, mark: its worst row; 6 dB are one "
      "bit</text>\n",
      height);
  for (int db = 0; db <= 60; db += 10) {
    svg += formatted(
        "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>"
        "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" fill=\"#777\">%d</text>\n",
        x_of(db), x_of(db), kTop - 4, height - 12, x_of(db), kTop - 8, db);
  }
  double y = kTop;
  for (const MatrixReport& m : matrices) {
    const char* color = m.format.dtype == DType::i8   ? "#4878a8"
                        : m.format.dtype == DType::i4 ? "#d08030"
                                                      : "#70a060";
    const double end = x_of(m.error.signal_to_noise_db()), worst = x_of(m.error.worst_row_db());
    svg += formatted("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">", kLeft - 6, y + 10) +
           escaped(m.name.substr(0, 60)) + " " + format_text(m.format) + "</text>" +
           formatted(
               "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"11\" fill=\"%s\"/>"
               "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"black\"/>\n",
               kLeft, y + 1, end - kLeft, color, worst, worst, y, y + 13);
    y += kLine;
  }
  return svg + "</svg>\n";
}

}  // namespace ciuic::inline CIUIC_ABI
