// Early return of errors, for the compiled half. Private: macros do not belong in public headers.
#pragma once

#include "ciuic/base/error.hpp"

#define CIUIC_CONCAT_INNER(a, b) a##b
#define CIUIC_CONCAT(a, b) CIUIC_CONCAT_INNER(a, b)

/// Evaluates a Result<void>; returns its error from the enclosing function.
#define CIUIC_TRY(expression)                                          \
  do {                                                                 \
    auto ciuic_try_result = (expression);                              \
    if (!ciuic_try_result) return std::move(ciuic_try_result).error(); \
  } while (false)

/// `CIUIC_ASSIGN_OR_RETURN(auto x, f());` declares x, or returns f's error.
#define CIUIC_ASSIGN_OR_RETURN(declaration, expression) \
  CIUIC_ASSIGN_OR_RETURN_INNER(CIUIC_CONCAT(ciuic_result_, __LINE__), declaration, expression)
#define CIUIC_ASSIGN_OR_RETURN_INNER(result, declaration, expression) \
  auto result = (expression);                                         \
  if (!result) return std::move(result).error();                      \
  declaration = *std::move(result)
