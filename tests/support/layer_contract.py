"""What every layer must pass. The test file of a layer subclasses `LayerContract`.

Each test is written once, here, and runs over the cases that the subclass gives. What a layer
promises is what PyTorch and PyG promise of one; where PyG has the layer, it is the definition.
"""

import copy
import inspect
import pickle
from typing import ClassVar

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from support.calls import LAYOUTS
from support.layer_calls import (
    EXACT,
    GLOBAL_HOOKS,
    HOOKS,
    OFFSETS,
    called_parts,
    flat,
    of_dtype,
    require_close,
    run,
    tree,
)
from support.layer_derivatives import LayerDerivatives
from support.layer_inputs import LayerInputs
from support.tolerances import LAYER_BFLOAT16, LAYER_FLOAT32, assert_close, relative_error


@pytest.mark.filterwarnings("ignore:.*computed edge by edge")
class LayerContract(LayerDerivatives, LayerInputs):
    """Base class; the attributes below are the layer's own part."""

    kinds: tuple  #: the classes that this contract is of
    cases: ClassVar[dict]  #: name -> `Case`
    compiled: tuple = ()  #: names of cases that are compiled and exported; none: the first
    reads_edges: bool = False  #: the second argument is PyG's ``edge_index``
    reads_differences: bool = False  #: of nodes, which may lie far from the origin
    exact: float = EXACT  #: by which the plain way may differ in float64
    without_meta: tuple = ()  #: names of cases that PyG cannot compute on the meta device
    unheard: tuple = ()  #: parts that are not called, by the end of their name
    overrides: ClassVar[dict] = {}  #: name of a method -> (class to its descendant), for PyG's

    @staticmethod
    def sized(size):
        """Arguments of the compiled cases with every dynamic dimension set by ``size``."""
        raise NotImplementedError

    sizes: tuple = (7, 12, 5, 30, 64, 9, 17, 128, 33, 8)  #: no two dimensions may be alike
    #: of `sized`: for every argument a dictionary of its dynamic dimensions, or None
    dynamic: tuple

    @classmethod
    def parameters(cls):
        """Parameter of a test -> the values it takes for this layer."""
        return {
            "case": cls.cases,
            "peer_case": [name for name, case in cls.cases.items() if case.peer is not None],
            "method": cls.overrides,
            "propagated_case": [next(iter(cls.cases))] if cls.overrides else [],
            "compiled_case": cls.compiled or [next(iter(cls.cases))],
            "edges": [0, 1] if cls.reads_edges else [],
            "offset": OFFSETS if cls.reads_differences else [],
            "int_dtype": [torch.int32, torch.uint8] if cls.reads_edges else [],
        }

    def __init_subclass__(cls):
        """Tests that have no case for this layer are none of its tests."""
        nothing = {name for name, values in cls.parameters().items() if not values}
        for name in dir(cls):
            test = getattr(cls, name)
            if name.startswith("test_") and nothing & set(inspect.signature(test).parameters):
                setattr(cls, name, None)

    @classmethod
    def pytest_generate_tests(cls, metafunc):
        """Run each test over the layer's cases."""
        for name, values in cls.parameters().items():
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, list(values))

    def made(self, case, dtype=torch.float64):
        """The layer of a case and its arguments."""
        torch.manual_seed(0)
        return self.cases[case].make().to(dtype), of_dtype(self.cases[case].inputs(), dtype)

    def peer(self, case, layer):
        """PyG's layer with the weights of ours."""
        theirs = self.cases[case].peer().to(next(layer.parameters()).dtype)
        theirs.load_state_dict(layer.state_dict())
        return theirs.train(layer.training)

    @property
    def first(self):
        return next(iter(self.cases))

    # ---- values ----

    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    def test_values_of_the_peer(self, peer_case, training):
        """Output, all gradients and what is left in the state, twice: statistics move on."""
        ours, inputs = self.made(peer_case)
        theirs = self.peer(peer_case, ours.train(training))
        for _ in range(2):
            require_close(run(ours, inputs), run(theirs, inputs))

    def test_repeats_and_leaves_its_arguments_alone(self, case):
        """To the bit; nothing is written to but the state."""
        layer, inputs = self.made(case, torch.float32)
        layer.eval()
        before = [t.clone() for t in flat(inputs)]
        first, second = run(layer, inputs), run(layer, inputs)
        for name, value in first.items():
            assert torch.equal(second[name], value), name
        for tensor, kept in zip(flat(inputs), before, strict=True):
            assert torch.equal(tensor, kept)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_strided(self, layout):
        """Whatever the layout of the arguments in memory."""
        layer, inputs = self.made(self.first)
        layer.eval()
        require_close(run(layer, tree(inputs, LAYOUTS[layout])), run(layer, inputs))

    def test_autocast(self, case):
        """Under autocast the result is bfloat16, as the peer's; gradients are float32."""
        layer, inputs = self.made(case, torch.float32)
        layer.eval()
        expected = run(layer, inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = run(layer, inputs)
        allowed = LAYER_BFLOAT16
        if self.cases[case].peer is not None:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                theirs = self.peer(case, layer)(*inputs)
            assert actual["out"].dtype == theirs.dtype
            allowed = max(allowed, 2 * relative_error(theirs, expected["out"]))
        assert_close(actual["out"], expected["out"], allowed, "out")
        for name, value in actual.items():
            if name.startswith("gradient"):
                assert value.dtype == torch.float32
                assert value.isfinite().all()

    # ---- copies and state ----

    def test_copies(self, case):
        """A copy, one that was pickled, and one that took the state, are the same layer."""
        layer, inputs = self.made(case, torch.float32)
        layer.eval()
        expected = layer(*inputs)
        torch.manual_seed(1)
        other = self.cases[case].make().to(torch.float32).eval()
        other.load_state_dict(layer.state_dict())
        copies = [copy.deepcopy(layer), other]
        if "<lambda>" not in repr(layer) and "<function" not in repr(layer):
            copies.append(pickle.loads(pickle.dumps(layer)))
        for same in copies:
            assert torch.equal(same(*inputs), expected)
            assert repr(same) == repr(layer)
        copies[0].to(torch.float64)
        assert layer(*inputs).dtype == torch.float32

    def test_state_of_the_peer(self, peer_case):
        """Both ways, strictly; and it says of itself what the peer says."""
        ours, _ = self.made(peer_case)
        theirs = self.cases[peer_case].peer()
        assert list(ours.state_dict()) == list(theirs.state_dict())
        theirs.load_state_dict(ours.state_dict())
        ours.load_state_dict(theirs.state_dict())
        assert repr(ours).replace("polygraph", "torch_geometric") == repr(theirs)

    # ---- whoever listens or changes something is heard ----

    def heard(self, layer):
        """The parts of a layer whose call nobody may leave out."""
        return {n: p for n, p in called_parts(layer).items() if not n.endswith(self.unheard)}

    @pytest.mark.parametrize("hook", HOOKS)
    def test_hooks(self, case, hook):
        """A hook on the layer or any part of it is called, as the peer's; it changes nothing."""
        layer, inputs = self.made(case)
        expected = run(layer.eval(), inputs)
        peer = None if self.cases[case].peer is None else self.peer(case, layer)
        for name in self.heard(layer):
            calls = []
            for tested in (layer, peer):
                if tested is None:
                    continue
                seen = []
                handle = HOOKS[hook](tested.get_submodule(name), lambda *a, s=seen: s.append(a))
                found = run(tested, inputs)
                handle.remove()
                if tested is layer:
                    require_close(found, expected, self.exact)
                calls.append(len(seen))
            assert len(set(calls)) == 1, name
            assert peer is not None or calls[0] > 0, name

    @pytest.mark.parametrize("hook", GLOBAL_HOOKS)
    def test_global_hooks(self, hook):
        """A hook of all modules hears every part, as it hears the peer's."""
        layer, inputs = self.made(self.first)
        expected = run(layer.eval(), inputs)
        names = {id(part): name for name, part in layer.named_modules()}
        seen = set()
        handle = GLOBAL_HOOKS[hook](lambda module, *_: seen.add(names.get(id(module))))
        try:
            found = run(layer, inputs)
        finally:
            handle.remove()
        require_close(found, expected, self.exact)
        if self.cases[self.first].peer is not None:
            assert len(self.heard(layer)) > 1
        assert seen >= set(self.heard(layer))

    def test_replaced_forward(self, case):
        """A forward of a part's own, as `accelerate` gives it one, is called."""
        layer, inputs = self.made(case)
        expected = layer.eval()(*inputs)
        for name in self.heard(layer):
            found = []
            for tested in (layer, *([self.peer(case, layer)] if self.cases[case].peer else [])):
                part = tested.get_submodule(name)
                old = part.forward

                def changed(*args, old=old, **kwargs):
                    # Not a multiple, which a norm behind it would take away again.
                    return tree(old(*args, **kwargs), lambda t: t + t.square())

                part.forward = changed
                found.append(tested(*inputs))
                del part.forward
            if len(found) == 2:
                assert_close(found[0], found[1], EXACT, name)
            else:
                assert relative_error(found[0], expected) > 1e-6, name
        assert torch.equal(layer(*inputs), expected)

    @pytest.mark.parametrize("on", ["class", "instance"])
    def test_overridden_method(self, method, on):
        """A descendant's method, and one put on an instance, count as in the peer."""
        layer, inputs = self.made(self.first)
        peer = self.peer(self.first, layer)
        expected = layer(*inputs)
        found = []
        for tested in (layer, peer):
            changed = self.overrides[method](type(tested))
            if on == "class":
                tested.__class__ = changed
                tested._set_jittable_templates()
            else:
                function = changed.__dict__[method]
                setattr(tested, method, function.__get__(tested))
            found.append(tested(*inputs))
        assert_close(found[0], found[1], EXACT, method)
        if method != "edge_update":
            assert not torch.equal(found[0], expected)

    @pytest.mark.parametrize("when", ["pre_hook", "hook"])
    @pytest.mark.parametrize("step", ["propagate", "message", "aggregate"])
    def test_hooks_of_propagation(self, propagated_case, step, when):
        """PyG's own hooks see and change what they do in the peer."""
        layer, inputs = self.made(propagated_case)
        found, seen = [], []

        def hook(module, given, *out):
            seen.append(module)
            return out[0] * 3 if out else None if step == "propagate" else given[0]

        for tested in (layer, self.peer(propagated_case, layer)):
            handle = getattr(tested, f"register_{step}_forward_{when}")(hook)
            found.append(tested(*inputs))
            handle.remove()
        assert_close(found[0], found[1], EXACT, "out")
        assert seen[0] is layer
        assert len(seen) == 2

    def test_explanation(self, propagated_case):
        """A mask of edges that an explainer sets weighs messages, as in the peer."""
        layer, inputs = self.made(propagated_case)
        edges = []
        layer.register_message_forward_hook(lambda module, given, out: edges.append(len(out)))
        layer(*inputs)
        layer._message_forward_hooks.clear()
        plain, found = layer(*inputs), []
        for tested in (layer, self.peer(propagated_case, layer)):
            tested.explain = True
            tested._edge_mask = torch.linspace(-2, 2, edges[0]).double()
            found.append(tested(*inputs))
            tested.explain = False
        assert_close(found[0], found[1], EXACT, "out")
        assert not torch.allclose(found[0], plain)
        torch.testing.assert_close(layer(*inputs), plain)

    # ---- graphs of all sizes ----

    def test_few_edges(self, edges):
        """No edges and one; nodes without any are nobody's neighbours."""
        layer, _ = self.made(self.first)
        inputs = of_dtype(self.graph(5, edges), torch.float64)
        peer = self.peer(self.first, layer.eval()) if self.cases[self.first].peer else None
        found = run(layer, inputs)
        assert all(value.isfinite().all() for value in found.values())
        if peer is not None:
            require_close(found, run(peer, inputs))

    def test_few_nodes(self, edges):
        """One node, with an edge to itself or without."""
        layer, _ = self.made(self.first)
        inputs = of_dtype(self.graph(1, edges), torch.float64)
        found = run(layer.eval(), inputs)
        assert found["out"].shape[0] == 1
        if self.cases[self.first].peer is not None:
            require_close(found, run(self.peer(self.first, layer), inputs))

    def test_other_integers(self, case, int_dtype):
        """Edges in another integer dtype are the same edges."""
        layer, inputs = self.made(case)
        layer.eval()
        other = (inputs[0], inputs[1].to(int_dtype), *inputs[2:])
        assert torch.equal(layer(*other), layer(*inputs))

    def test_far_from_the_origin(self, offset):
        """Digits in which neighbours differ are kept, as by the peer; gradients stay exact."""
        layer, inputs = self.made(self.first, torch.float32)
        layer = self.of_differences(layer).eval()
        inputs = (inputs[0] + offset, *inputs[1:])
        wide = of_dtype(inputs, torch.float64)
        case = self.cases[self.first]
        definition = copy.deepcopy(layer).double()
        if case.peer is not None:
            definition = self.peer(self.first, definition)
        expected = run(definition, wide)
        actual = run(layer, inputs)
        for name, value in expected.items():
            if name.startswith("buffer"):
                continue
            allowed = LAYER_FLOAT32
            if case.peer is not None:
                theirs = run(self.peer(self.first, layer), inputs)
                allowed = 4 * relative_error(theirs[name], value) + 1e-6
            assert_close(actual[name], value, allowed, name)

    def of_differences(self, layer):
        """The layer with weights that read differences alone."""
        return layer

    # ---- tensors without values ----

    def test_meta(self, case):
        """Made and called on the meta device; made anew from there, it is the same layer."""
        if case in self.without_meta:
            pytest.skip("PyG's own way, which reads values")
        layer, inputs = self.made(case, torch.float32)
        layer.eval()
        with torch.device("meta"):
            shapes = self.cases[case].make().to(torch.float32).eval()
        out = shapes(*tree(inputs, lambda t: t.to("meta")))
        expected = layer(*inputs)
        assert out.is_meta
        assert (out.shape, out.dtype) == (expected.shape, expected.dtype)
        shapes.to_empty(device="cpu").load_state_dict(layer.state_dict())
        assert torch.equal(shapes(*inputs), expected)

    def test_fake_tensors(self, case):
        """Called with fake tensors, outside of any compiler."""
        layer, inputs = self.made(case, torch.float32)
        expected = layer.eval()(*inputs)
        with FakeTensorMode() as mode:
            state = dict(layer.named_parameters()) | dict(layer.named_buffers())
            state = {name: mode.from_tensor(tensor) for name, tensor in state.items()}
            out = torch.func.functional_call(layer, state, tree(inputs, mode.from_tensor))
        assert (out.shape, out.dtype) == (expected.shape, expected.dtype)

    # ---- compilers ----

    def test_compiles_once(self, compiled_case):
        """One graph for ten sizes, forward and backward, with the plain layer's results."""
        layer, _ = self.made(compiled_case, torch.float32)
        plain = copy.deepcopy(layer)
        torch.compiler.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
        counts = []
        for size in self.sizes:
            inputs = of_dtype(self.sized(size), torch.float32)
            actual = run(layer, inputs, call=lambda _, *arguments: compiled(*arguments))
            require_close(actual, run(plain, inputs), LAYER_FLOAT32)
            counts.append(counter.frame_count)  # the first may begin twice
        assert len(set(counts)) == 1

    def test_export(self, compiled_case):
        """torch.export with dynamic sizes; the program is run at another size."""
        self.exported(compiled_case, strict=False)

    def test_strict_export(self):
        """The same by bytecode, which `test_compiles_once` sees of all cases: of the first one."""
        self.exported((self.compiled or [next(iter(self.cases))])[0], strict=True)

    def exported(self, case, strict):
        layer, _ = self.made(case, torch.float32)
        layer.eval()
        inputs = of_dtype(self.sized(self.sizes[0]), torch.float32)
        program = torch.export.export(layer, inputs, dynamic_shapes=self.dynamic, strict=strict)
        other = of_dtype(self.sized(self.sizes[1]), torch.float32)
        assert_close(program.module()(*other), layer(*other), LAYER_FLOAT32, "out")
