"""The page of a plane: what is packed into it, and what its script makes of that."""

import base64
import json

import numpy as np
import pytest
import torch
from torch import nn

from polygraph.analysis import SplineLens, pack_codes, partition_distance
from polygraph.report.lens_page import slice_payload, widest_slice, write_slice_page
from polygraph.report.lens_pictures import plane_through


def case(in_shape=(1, 6, 6), outputs=3):
    torch.manual_seed(0)
    size = int(np.prod(in_shape))
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(size, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU6(),
        nn.Linear(5, outputs),
    )  # fmt: skip
    x = torch.randn(3, *in_shape, dtype=torch.float64)
    return SplineLens(net.double()), plane_through(*x)


def numbers(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_the_payload_is_what_the_lens_says():
    """Outputs at any place of a region, biases, templates and codes."""
    lens, (origin, u, v) = case()
    found = lens.slice(origin, u, v)
    content = slice_payload(lens, (origin, u, v), found, ["x", "y", "z"], [(0, 0.5, "p")])
    json.dumps(content, allow_nan=False)
    R = found.regions
    assert R > 5
    assert sum(content["pieces"]["count"]) >= sum(content["polygons"]["count"])
    planes = numbers(content["planes"], "<f4").reshape(R, 3, 3)
    bias = numbers(content["bias"], "<f4").reshape(R, 3)
    limits = numbers(content["templates"]["limit"], "<f4").reshape(R, 3)
    bytes_ = numbers(content["templates"]["bytes"], np.int8).reshape(R, 3, 36)
    assert content["templates"]["every"]
    sites = {s["name"]: s for s in content["codes"]}
    assert [(s["entries"], s["bytes"]) for s in sites.values()] == [(7, 0), (5, 1)]
    for r, corners in enumerate(found.polygons):
        a, b = place = 0.7 * corners.mean(0) + 0.3 * corners[0]
        x = (origin + a * u + b * v)[None]
        with torch.no_grad():
            wanted = lens.model(x)[0].numpy()
        np.testing.assert_allclose(planes[r] @ [1, a, b], wanted, atol=2e-5)
        local = lens.affine(x)
        np.testing.assert_allclose(bias[r], local.b[0], atol=1e-5)
        templates = bytes_[r] / 127 * limits[r][:, None]
        np.testing.assert_allclose(
            templates, local.A[0].flatten(1), atol=float(limits[r].max()) / 127
        )
        for name, packed in pack_codes(lens.codes(x)).sites.items():
            rows = numbers(sites[name]["rows"], np.uint8).reshape(R, -1)
            assert np.array_equal(rows[r], packed[0].contiguous().view(torch.uint8).numpy()), place


def test_what_does_not_fit_is_left_out():
    lens, plane = case()
    found = lens.slice(*plane)
    full = slice_payload(lens, plane, found)
    bare = 60_000 + len(json.dumps({k: v for k, v in full.items() if k != "templates"}))
    each = 1.4 * 36 * found.regions  # of one output in all regions
    small = slice_payload(lens, plane, found, budget=bare + 2 * each)
    assert not small["templates"]["every"]
    assert len(numbers(small["templates"]["bytes"], np.int8)) == 36 * found.regions
    assert slice_payload(lens, plane, found, budget=bare + each / 2)["templates"] is None
    few = slice_payload(lens, plane, found, budget=bare)["codes"]  # of the narrower one alone
    assert [site["rows"] is None for site in few] == [True, False]
    with pytest.raises(ValueError, match="regions do not fit into"):
        slice_payload(lens, plane, found, budget=60_000)
    with pytest.raises(ValueError, match="names must be those of 3 outputs, got 1"):
        slice_payload(lens, plane, found, ["a"])


def test_one_sample_without_a_batch(tmp_path):
    """Of one output, an input that is no image; the title is escaped."""
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Flatten(0), nn.Linear(20, 1)).double()
    lens = SplineLens(net, batched=False)
    x = torch.randn(3, 5, 3, dtype=torch.float64)
    path = write_slice_page(tmp_path / "made" / "a.html", lens, *x, title="<b>")
    text = path.read_text()
    assert "<title>&lt;b&gt;</title>" in text
    assert "{{" not in text
    assert '"height":5,"width":3,"image":false' in text
    with pytest.raises(ValueError, match=r"path must end in .html, got 'a.png'"):
        write_slice_page(tmp_path / "a.png", lens, *x)


def test_a_plane_of_few_regions():
    lens, _ = case()
    torch.manual_seed(1)
    x = torch.randn(3, 1, 6, 6, dtype=torch.float64)
    _, whole, part = widest_slice(lens, *x, most=1000)
    assert part == 0
    with pytest.raises(ValueError, match="the plane has more than 5 regions"):
        lens.slice(*plane_through(*x), most=5)
    (origin, u, _), found, part = widest_slice(lens, *x, most=5)
    assert 0 < part < 1
    assert torch.equal(origin, x[0])
    torch.testing.assert_close(u, part * (x[1] - x[0]))
    assert found.regions <= 5 < whole.regions


def test_the_page_in_a_browser(tmp_path, browser):
    """Hover, pin, colours and keys, with the numbers that the lens gives."""
    lens, (origin, u, v) = case()
    path = write_slice_page(
        tmp_path / "a.html", lens, origin, u, v, names=["x<", "y", "z"], points=[(0, 0, "here")]
    )
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=true]", timeout=60_000)
    box = page.locator("#overlay").bounding_box()

    def move(a, b):
        page.mouse.move(
            box["x"] + box["width"] * (a + 1) / 2, box["y"] + box["height"] * (1 - b) / 2
        )
        page.wait_for_function(f"document.querySelector('#facts').textContent.includes('{a:.1f}')")

    def seen():
        rows = page.locator("#outputs tr").all_inner_texts()
        return {r.split("\t")[0]: float(r.split("\t")[2].replace("−", "-")) for r in rows}

    codes = []
    for a, b in ((-0.5, 0.3), (0.7, -0.4)):
        move(a, b)
        x = (origin + a * u + b * v)[None]
        codes.append(pack_codes(lens.codes(x)))
        with torch.no_grad():
            values = dict(zip(["x<", "y", "z"], lens.model(x)[0].tolist(), strict=True))
        for name, value in seen().items():
            assert abs(value - values[name]) < 0.02 + 0.02 * abs(value)  # a pixel away
        if a == -0.5:
            page.mouse.down()
            page.mouse.up()
    apart = float(partition_distance(*codes)) * 12
    assert f"{apart:.0f} of 12 choices differ" in page.locator("#difference").inner_text()
    for button in page.locator("#modes button").all():
        button.click()
    page.locator("#overlay").focus()
    for key in ("+", "ArrowLeft", "Enter", "-"):
        page.keyboard.press(key)
    page.locator("#outputs tr").first.click()
    assert "template of" in page.locator("#template-name").inner_text()
    page.close()
    assert faults == []
