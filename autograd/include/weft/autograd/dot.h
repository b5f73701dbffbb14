#pragma once

#include <string>

#include "weft/autograd/variable.h"

namespace weft::autograd {

/// The record behind `root` as a graph in Graphviz' DOT language: boxes are functions, ellipses are
/// leaves with their names and shapes, arrows follow the data. Call it before backward(), which
/// frees the record.
std::string to_dot(const Variable& root);

}  // namespace weft::autograd
