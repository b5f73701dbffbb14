#include "weft/autograd/dot.h"

#include <unordered_map>
#include <unordered_set>

#include "weft/autograd/node.h"
#include "weft/tensor/check.h"

namespace weft::autograd {
namespace {

std::string escape(const std::string& text) {
  std::string escaped;
  for (char c : text) {
    if (c == '"' || c == '\\') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

std::string leaf_label(const GradMeta& leaf) {
  return fmt::format("{}{}{} {}", escape(leaf.name), leaf.name.empty() ? "" : "\\n", leaf.shape,
                     leaf.dtype);
}

}  // namespace

std::string to_dot(const Variable& root) {
  std::string dot = "digraph autograd {\n  rankdir=TB;\n  node [fontname=\"monospace\"];\n";
  const GradMeta& output = *root.grad_meta();
  dot += fmt::format("  output [shape=ellipse, label=\"output\\n{} {}\"];\n", output.shape,
                     output.dtype);
  if (output.producer == nullptr) return dot + "}\n";

  // Numbers in order of discovery, so that the text does not depend on addresses.
  std::unordered_map<const void*, int> ids;
  const auto id_of = [&](const void* object) {
    return ids.emplace(object, static_cast<int>(ids.size())).first->second;
  };
  std::vector<std::shared_ptr<Node>> nodes = {output.producer};
  std::unordered_set<const void*> seen = {output.producer.get()};
  dot += fmt::format("  n{} -> output;\n", id_of(output.producer.get()));
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Node& node = *nodes[i];
    dot += fmt::format("  n{} [shape=box, label=\"{}\"];\n", id_of(&node), escape(node.name));
    for (const std::shared_ptr<GradMeta>& input : node.inputs) {
      if (input == nullptr) continue;
      const bool is_leaf = input->producer == nullptr;
      const void* source = is_leaf ? static_cast<const void*>(input.get()) : input->producer.get();
      if (seen.insert(source).second) {
        if (is_leaf) {
          dot += fmt::format("  n{} [shape=ellipse, label=\"{}\"];\n", id_of(source),
                             leaf_label(*input));
        } else {
          nodes.push_back(input->producer);
        }
      }
      dot += fmt::format("  n{} -> n{} [label=\"{}\"];\n", id_of(source), id_of(&node),
                         to_string(input->shape));
    }
  }
  return dot + "}\n";
}

}  // namespace weft::autograd
