# How ciuic's own targets are compiled. Consumers inherit none of this.

function(ciuic_compile_options target)
  target_compile_features(${target} PRIVATE cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
    -Wsign-conversion -Wnon-virtual-dtor -Wold-style-cast
    $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety>
    $<$<BOOL:${CIUIC_WARNINGS_AS_ERRORS}>:-Werror>
    -ffp-contract=off)  # results must not depend on what the compiler fuses
  ciuic_sanitize(${target})
endfunction()

function(ciuic_sanitize target)
  if(CIUIC_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${CIUIC_SANITIZE} -fno-omit-frame-pointer
      -fno-sanitize-recover=all
      $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)  # instrumented code: false alarms in optional
    target_link_options(${target} PUBLIC -fsanitize=${CIUIC_SANITIZE})
  endif()
endfunction()
