// Bytes with their unit: `using namespace ciuic::literals; … 2_GiB`.
#pragma once

#include <cstddef>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {
inline namespace literals {

constexpr std::size_t operator""_KiB(unsigned long long n) noexcept { return std::size_t{n} << 10; }
constexpr std::size_t operator""_MiB(unsigned long long n) noexcept { return std::size_t{n} << 20; }
constexpr std::size_t operator""_GiB(unsigned long long n) noexcept { return std::size_t{n} << 30; }

}  // namespace literals
}  // namespace ciuic::inline CIUIC_ABI
