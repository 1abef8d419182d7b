// Schema of the nearest neighbors; the contract is in knn.h.
#include "knn/knn.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def(
      "knn(Tensor x, Tensor y, Tensor? x_ptr, Tensor? y_ptr, SymInt k, bool exclude_self, SymInt height, SymInt width, "
      "int exclude_radius, int search_radius) -> (Tensor index, Tensor dist2)");
}
