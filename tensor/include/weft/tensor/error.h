#pragma once

#include <stdexcept>
#include <string>

namespace weft {

/// Base of every exception that Weft throws. The text names the operation, the argument, what came
/// and what is allowed. The library never prints and never exits; programs turn these into one line
/// and an exit code.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Shapes that do not fit the operation or each other.
class ShapeError : public Error {
 public:
  using Error::Error;
};

/// A data type that the operation does not take, or operands whose types differ.
class DTypeError : public Error {
 public:
  using Error::Error;
};

/// Operands on different devices, or a device that is not there.
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// An index, token id or class label outside its range.
class IndexError : public Error {
 public:
  using Error::Error;
};

/// A scalar argument or option outside its allowed values; wrong combinations of options.
class ConfigError : public Error {
 public:
  using Error::Error;
};

/// A combination of operation, device and data type that has no kernel.
class NotImplementedError : public Error {
 public:
  using Error::Error;
};

/// A file that is missing, damaged, foreign, or cannot be written.
class IoError : public Error {
 public:
  using Error::Error;
};

/// Misuse of the autograd graph: freed graphs, damaged saved tensors, missing gradients.
class AutogradError : public Error {
 public:
  using Error::Error;
};

/// Memory that could not be had. Says what was requested, in use, cached and the peak, in bytes.
class OutOfMemoryError : public Error {
 public:
  using Error::Error;
};

/// A failed call of the CUDA runtime or one of its libraries.
class CudaError : public Error {
 public:
  using Error::Error;
};

}  // namespace weft
