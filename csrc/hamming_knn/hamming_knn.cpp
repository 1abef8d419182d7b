// Schema of the nearest codes; the contract is in hamming_knn.h.
#include "hamming_knn/hamming_knn.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def("hamming_knn(Tensor[] x, Tensor[] y, SymInt k) -> (Tensor index, Tensor distance)");
}
