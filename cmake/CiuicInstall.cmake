# `cmake --install`: headers, libraries, the command, and a package for find_package(ciuic COMPONENTS …).
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/ciuic)

install(TARGETS ciuic_core EXPORT ciuicCore)
install(EXPORT ciuicCore NAMESPACE ciuic:: FILE ciuicCoreTargets.cmake DESTINATION ${package_dir})
set(core_headers base exec devices batching engine observe dist)
if(CIUIC_CORE_ONLY)
  foreach(folder ${core_headers})
    if(EXISTS ${PROJECT_SOURCE_DIR}/include/ciuic/${folder})
      install(DIRECTORY include/ciuic/${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/ciuic)
    endif()
  endforeach()
else()
  install(DIRECTORY include/ciuic DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  set_target_properties(ciuic PROPERTIES EXPORT_NAME ciuic)
  install(TARGETS ciuic EXPORT ciuicCompiled)
  install(EXPORT ciuicCompiled NAMESPACE ciuic:: FILE ciuicCompiledTargets.cmake DESTINATION ${package_dir})
  if(NOT BUILD_SHARED_LIBS)  # whoever links the archive must find what it uses
    install(FILES cmake/FindPCRE2.cmake cmake/FindUtf8proc.cmake DESTINATION ${package_dir})
  endif()
endif()
if(CIUIC_BUILD_TOOLS AND TARGET ciuic_tool)
  install(TARGETS ciuic_tool)
endif()
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(CIUIC_SHARED ${BUILD_SHARED_LIBS})
configure_package_config_file(cmake/ciuicConfig.cmake.in ciuicConfig.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(ciuicConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/ciuicConfig.cmake ${PROJECT_BINARY_DIR}/ciuicConfigVersion.cmake
  DESTINATION ${package_dir})
