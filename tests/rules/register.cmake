# Who may include whom, that every public header stands alone, and that the README's C++ compiles.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(rules ${CMAKE_CURRENT_LIST_DIR})
add_test(NAME rules_includes COMMAND Python3::Interpreter ${rules}/check_includes.py ${PROJECT_SOURCE_DIR})
add_test(NAME rules_includes_self_test COMMAND Python3::Interpreter ${rules}/check_includes.py --self-test)
add_test(NAME rules_headers_alone
  COMMAND Python3::Interpreter ${rules}/check_headers.py ${PROJECT_SOURCE_DIR} ${CMAKE_CXX_COMPILER})
add_test(NAME rules_readme
  COMMAND Python3::Interpreter ${rules}/check_readme.py ${PROJECT_SOURCE_DIR} ${CMAKE_CXX_COMPILER})
set_tests_properties(rules_readme rules_includes rules_includes_self_test rules_headers_alone PROPERTIES LABELS house TIMEOUT 600)
set_tests_properties(rules_headers_alone PROPERTIES PROCESSORS 2)

# The grammar behind examples/models/ciuic-tiny: its lines check, wrong ones are found, and no held-out
# fact leaks into training.
add_test(NAME tiny_model_grammar
  COMMAND Python3::Interpreter ${PROJECT_SOURCE_DIR}/tools/tiny_model/grammar.py --self-test)
set_tests_properties(tiny_model_grammar PROPERTIES LABELS house TIMEOUT 60)
