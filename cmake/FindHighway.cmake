# Highway::headers, from the system's libhwy-dev: portable SIMD for src/cpu. Headers are all we use,
# because each kernel file is compiled once per instruction set (src/cpu/CMakeLists.txt).
find_path(Highway_INCLUDE_DIR hwy/highway.h)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Highway REQUIRED_VARS Highway_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "Debian: libhwy-dev. Batching alone (CIUIC_CORE_ONLY, component core) needs no library.")
if(Highway_FOUND AND NOT TARGET Highway::headers)
  add_library(Highway::headers INTERFACE IMPORTED)
  set_target_properties(Highway::headers PROPERTIES INTERFACE_INCLUDE_DIRECTORIES ${Highway_INCLUDE_DIR})
endif()
mark_as_advanced(Highway_INCLUDE_DIR)
