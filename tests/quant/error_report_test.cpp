#include "ciuic/quant/error_report.hpp"

#include "support/catch.hpp"

using namespace ciuic;

TEST_CASE("Figures of a matrix, by hand") {
  MatrixError error;
  error.add_row(std::vector<float>{3, 4}, std::vector<float>{3, 4});
  error.add_row(std::vector<float>{1, 0}, std::vector<float>{0.9f, 0});
  error.add_row(std::vector<float>{0, 10}, std::vector<float>{0, 10});
  CHECK(error.rows() == 3);
  CHECK(error.worst_row() == 1);
  CHECK(error.worst_row_db() == Approx(20.0).epsilon(1e-5));
  CHECK(error.signal_to_noise_db() == Approx(10 * std::log10(126 / 0.01)).epsilon(1e-5));
  CHECK(error.output_signal_to_noise_db() == error.signal_to_noise_db());
  CHECK(error.relative_output_noise() == Approx(0.01 / 126).epsilon(1e-4));
  CHECK(error.cosine() == Approx((25 + 0.9 + 100) / std::sqrt(126 * 125.81)));
}

TEST_CASE("Errors count by the energy of their channel") {
  MatrixError error;
  error.add_row(std::vector<float>{1, 1}, std::vector<float>{0.9f, 1}, std::vector<double>{100, 1});
  CHECK(error.output_signal_to_noise_db() == Approx(10 * std::log10(101 / 1.0)).epsilon(1e-5));
  CHECK(error.signal_to_noise_db() == Approx(10 * std::log10(2 / 0.01)).epsilon(1e-5));
}

TEST_CASE("Exact and hopeless matrices") {
  MatrixError exact;
  exact.add_row(std::vector<float>{1, 2}, std::vector<float>{1, 2});
  CHECK(std::isinf(exact.signal_to_noise_db()));
  CHECK(exact.relative_output_noise() == 0.0);
  CHECK(exact.cosine() == Approx(1.0));
  MatrixError broken;
  broken.add_row(std::vector<float>{1, 2}, std::vector<float>{1, 2});
  broken.add_row(std::vector<float>{1, 2}, std::vector<float>{1, NAN});
  CHECK(broken.worst_row() == 1);
  CHECK(std::isnan(broken.signal_to_noise_db()));
}

TEST_CASE("The table has a line for each matrix, the picture a bar") {
  std::vector<MatrixReport> matrices(2);
  matrices[0].name = "model.<embed>";
  matrices[0].format = {DType::i4, 32};
  matrices[0].error.add_row(std::vector<float>{1, 0}, std::vector<float>{0.9f, 0});
  matrices[1].name = "lm_head";
  matrices[1].error.add_row(std::vector<float>{1, 0}, std::vector<float>{1, 0});
  const std::string table = error_table(matrices), picture = error_picture(matrices);
  CHECK(table.find("i4/32") != std::string::npos);
  CHECK(table.find("20.0 (0)") != std::string::npos);
  CHECK(table.find("exact") != std::string::npos);
  CHECK(std::count(table.begin(), table.end(), '\n') == 3);
  CHECK(picture.starts_with("<svg"));
  CHECK(picture.ends_with("</svg>\n"));
  CHECK(picture.find("model.&lt;embed>") != std::string::npos);
  CHECK(picture.find("nan") == std::string::npos);
}
