// Schemas of the softmax of edge scores; the contract is in edge_softmax.h.
#include "edge_softmax/edge_softmax.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def(
      "edge_softmax(Tensor u, Tensor v, float slope, bool over_features, SymInt rows, Tensor[] graph, int tables) "
      "-> Tensor");
  m.def(
      "edge_softmax_backward(Tensor grad, Tensor p, Tensor? u, Tensor? v, float slope, bool over_features, "
      "SymInt others, Tensor[] graph, int tables) -> Tensor");
}
