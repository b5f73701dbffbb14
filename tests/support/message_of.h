#pragma once

#include <exception>
#include <string>

#include <gtest/gtest.h>

namespace weft::test {

/// The text of the exception that `call` must throw; another one, or none, fails the test.
template <class Exception, class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const Exception& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another exception: " << error.what();
    return "";
  }
  ADD_FAILURE() << "no exception";
  return "";
}

}  // namespace weft::test
