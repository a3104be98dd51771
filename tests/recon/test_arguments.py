"""What users give: numpy or torch, with or without the batch axis; what does not fit is named."""

import numpy as np
import pytest
import torch

import equipoise as eq
from equipoise.arguments import as_kspace, as_mask, as_numbers, as_tensor
from equipoise.outcome import BadInputError
from equipoise.physics.linop import LinearOperator
from problems import TIGHT, model_of, random_complex, sense_problem


@pytest.fixture(scope="module")
def problem():
    """A of batch 1, its data, and the equilibrium of a small model in the strict form."""
    operator, data = sense_problem(batch=1)
    model = model_of().eval()
    level = torch.full((1,), 0.1, dtype=torch.float64)
    with torch.no_grad():
        return operator, data, model, model.solve(operator, data, noise_level=level, options=TIGHT)


def test_numpy_and_torch_with_and_without_the_batch_axis_give_the_same_image(problem):
    operator, data, model, expected = problem
    for one in (data, data.numpy()):
        for given in (one, one[0]):
            with torch.no_grad():
                found = model.solve(operator, given, noise_level=0.1, options=TIGHT)
            assert found.value.ndim == given.ndim - 1
            assert torch.equal(found.value.reshape(expected.value.shape), expected.value)
            assert found.iterations.shape == (1,)


@pytest.mark.parametrize("name", ["noise_level", "lam", "scale"])
def test_a_number_is_one_for_each_sample(name):
    operator, data = sense_problem(batch=2)
    model = model_of().eval()
    forms = [0.7, np.float32(0.7), np.array(0.7), [0.7, 0.7], torch.full((2,), 0.7)]
    with torch.no_grad():
        images = [model.solve(operator, data, **{name: form}).value for form in forms]
    for image in images:
        assert torch.allclose(image, images[0], atol=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1.0, "noise_level is \\[-1.0\\]: it must be finite and not negative"),
        (float("nan"), "must be finite"),
        ([1.0, 2.0, 3.0], "one for each of the 2 samples"),
        (1j, "must be a real number"),
    ],
)
def test_a_number_that_cannot_be_is_refused(value, message):
    with pytest.raises(BadInputError, match=message):
        as_numbers(np.asarray(value), 2, "noise_level")


def test_the_gradient_passes_through_the_edge(problem):
    operator, data, model, _ = problem
    lam = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    leaf = data[0].clone().requires_grad_()
    model.solve(operator, leaf, lam=lam).value.abs().square().sum().backward()
    assert leaf.grad.shape == data[0].shape
    assert float(leaf.grad.abs().max()) > 0
    assert float(lam.grad.abs()) > 0


def test_a_model_takes_operator_and_data_in_either_order(problem):
    operator, data, model, _ = problem
    with torch.no_grad():
        one, other = model(operator, data[0].numpy()), model(data[0], operator)
    assert one.shape == operator.image_shape[1:]
    assert torch.equal(one, other)


def test_a_model_refuses_other_types_by_name(problem):
    operator, data, model, _ = problem
    with pytest.raises(BadInputError, match="given Tensor and Tensor"):
        model(data, data)
    with pytest.raises(BadInputError, match="given SenseOp and SenseOp"):
        model(operator, operator)


def test_the_call_is_the_forward_model_and_h_its_adjoint(problem):
    operator, data, _, _ = problem
    image = random_complex(operator.image_shape)
    assert torch.equal(operator(image), operator.forward(image))
    assert torch.equal(operator(image[0].numpy()), operator.forward(image)[0])
    assert torch.equal(operator.H(data[0]), operator.adjoint(data)[0])
    assert operator.H.H is operator
    assert operator.H.image_shape == operator.data_shape == tuple(data.shape)
    assert eq.adjoint_error(operator.H) < 1e-12


def test_an_operator_that_does_not_know_what_it_measures_is_asked_once():
    class Doubled(LinearOperator):
        image_shape = (1, 6, 5)
        calls = 0

        def forward(self, image):
            self.calls += 1
            return torch.cat([image, image], -1)

        def adjoint(self, data):
            return data[..., :5] + data[..., 5:]

    operator = Doubled()
    for _ in range(3):
        assert operator.H(np.ones((6, 10))).shape == (6, 5)
    assert operator.calls == 1
    with pytest.raises(BadInputError, match=r"expected \(6, 10\)"):
        operator.H(np.ones((6, 5)))


def test_wrong_coils_and_shapes_are_refused_by_name(problem):
    operator, data, model, _ = problem
    with pytest.raises(BadInputError, match="coil is 2 instead of 3"):
        model.solve(operator, data[:, :2])
    with pytest.raises(BadInputError, match="x is 7 instead of 8"):
        model.solve(operator, data[..., :7])
    with pytest.raises(BadInputError, match=r"shape \(10, 8\); expected \(3, 10, 8\)"):
        model.solve(operator, data[0, 0])
    with pytest.raises(BadInputError, match="k-space is complex"):
        model.solve(operator, data.real)
    with pytest.raises(BadInputError, match="the image has the shape"):
        operator(np.ones((8, 10)))
    two, _ = sense_problem(batch=2)
    with pytest.raises(BadInputError, match="the operator has a batch of 2"):
        model.solve(two, data)
    with pytest.raises(BadInputError, match="the start image has the shape"):
        model.solve(operator, data, start=np.ones((3, 3)))


def test_maps_and_masks_in_the_forms_that_users_have():
    csm = np.full((4, 6, 8), 0.5)
    columns = np.arange(8) % 2 == 0
    full = np.broadcast_to(columns, (6, 8))
    image = random_complex((6, 8)).to(torch.complex64)
    expected = eq.SenseOp(torch.full((1, 4, 6, 8), 0.5 + 0j), torch.from_numpy(full.copy())[None])
    for mask in (columns, columns[None], full, full.astype(float), full[None].astype(np.uint8)):
        operator = eq.SenseOp(csm, mask)
        assert torch.allclose(operator(image).to(torch.complex64), expected(image), atol=1e-6)
    with pytest.raises(BadInputError, match=r"values such as 0\.5 and 1"):
        eq.SenseOp(csm, np.linspace(0, 1, 3)[[0, 1, 2, 2, 2, 2, 2, 2]])
    with pytest.raises(BadInputError, match=r"shape \(6,\); the matrix is \(6, 8\)"):
        eq.SenseOp(csm, np.ones(6))
    with pytest.raises(BadInputError, match=r"shape \(6, 8\): expected \(coil, y, x\)"):
        eq.SenseOp(csm[0], full)
    with pytest.raises(BadInputError, match="a batch of 2 and the mask one of 3"):
        eq.SenseOp(np.stack([csm] * 2), np.stack([full] * 3))


def test_maps_with_a_norm_above_one_are_warned_of():
    mask = np.ones((6, 8))
    with pytest.warns(UserWarning, match=r"at most 1\.5, .* of the coil maps.* 2\.25 times"):
        operator = eq.SenseOp(np.full((4, 6, 8), 0.75), mask)
    assert float(eq.operator_norm(operator)) == pytest.approx(1.5, rel=1e-3)
    eq.SenseOp(eq.normalize_csm(operator.csm), mask)
    eq.SenseOp(np.full((4, 6, 8), 0.5 + 1e-5), mask)


def test_a_mask_of_lines_stands_for_rows_or_columns():
    lines = np.arange(6) % 2 == 0
    assert torch.equal(as_mask(lines[:, None], (6, 8))[0, :, 3], torch.from_numpy(lines))
    assert torch.equal(as_mask(lines, (8, 6))[0, 3], torch.from_numpy(lines))
    with pytest.raises(BadInputError, match="the matrix is"):
        as_mask(np.ones((1, 1)), (6, 8))


def test_a_mask_of_each_slice_must_fit_the_k_space():
    assert as_mask(np.ones((3, 6, 8)), (6, 8), 3).shape == (3, 6, 8)
    with pytest.raises(BadInputError, match="a batch of 2 and the k-space one of 3"):
        as_mask(np.ones((2, 6, 8)), (6, 8), 3)


def test_arrays_that_hold_no_numbers_are_refused():
    with pytest.raises(BadInputError, match="is a list"):
        as_tensor([1, 2], "the data")
    with pytest.raises(BadInputError, match="the type object"):
        as_tensor(np.array([None]), "the data")
    with pytest.raises(BadInputError, match="k-space is complex"):
        as_kspace(np.ones((2, 4, 4)))


def test_the_memory_of_a_read_only_array_is_not_shared():
    array = np.arange(4.0)
    array.setflags(write=False)
    as_tensor(array, "data")[0] = 7
    assert array[0] == 0
    swapped = np.arange(4.0).astype(">f8")
    assert as_tensor(swapped, "data").tolist() == [0, 1, 2, 3]


def test_maps_and_noise_of_numpy_without_the_batch_axis(scan_arrays):
    kspace = scan_arrays["kspace"]
    mask = np.ones(kspace.shape[2:], bool)
    batched = eq.espirit(torch.from_numpy(kspace), torch.from_numpy(mask)[None])
    single = eq.espirit(kspace[0], mask)
    assert torch.equal(single.csm, batched.csm[0])
    assert torch.equal(single.eigenvalue, batched.eigenvalue[0])
    level = eq.noise_level(kspace[0], mask)
    assert level.shape == ()
    assert level == eq.noise_level(kspace, mask)[0]
    assert torch.equal(eq.normalize_csm(2 * single.csm.numpy()), eq.normalize_csm(single.csm))


def test_quality_of_numpy_magnitudes_without_the_batch_axis(scan_arrays):
    image = scan_arrays["image"]
    other = (1.02 * image).astype(np.complex64)
    for measure in (eq.psnr, eq.ssim, eq.nmse):
        one, many = measure(abs(other[0]), abs(image[0])), measure(other, image)
        assert one.shape == ()
        assert float(one) == pytest.approx(float(many[0]), rel=1e-6)
    with pytest.raises(BadInputError, match="and equal"):
        eq.psnr(image[0], image)


def test_a_problem_of_numpy_is_certified(problem):
    operator, data, model, _ = problem
    found = eq.Problem(operator, data[0].numpy(), 0.1, mask=operator.mask[0].numpy())
    assert found.data.shape == data.shape
    assert found.noise_level.tolist() == [0.1]
    assert found.sample_count == 3 * int(operator.mask.sum())
    certified = eq.certify_slice(found, model)
    assert certified.image.shape == operator.image_shape
    with pytest.raises(BadInputError, match="a problem has one image"):
        eq.Problem(operator, torch.cat([data, data]), 0.1)
    with pytest.raises(BadInputError, match="broadcast"):
        eq.Problem(operator, data, 0.1, mask=np.ones((5, 5)))


def test_functions_of_numpy_arrays_are_an_operator():
    fourier = eq.from_numpy(
        lambda x: np.fft.fft2(x, norm="ortho"), lambda b: np.fft.ifft2(b, norm="ortho"), (8, 6), 2
    )
    image = random_complex((2, 8, 6))
    assert torch.allclose(fourier(image), torch.fft.fft2(image, norm="ortho"))
    assert eq.adjoint_error(fourier) < 1e-12


def test_functions_that_give_something_else_are_refused_by_name():
    with pytest.raises(BadInputError, match=r"forward returns ndarray.*from_numpy"):
        eq.FunctionOp(lambda x: x.numpy(), lambda b: b, (1, 4, 4))
    with pytest.raises(BadInputError, match=r"adjoint returns the shape \(4, 4\)"):
        eq.FunctionOp(lambda x: x, lambda b: b[0], (1, 4, 4))
    with pytest.raises(BadInputError, match=r"forward returns torch\.float32"):
        eq.FunctionOp(lambda x: x.real, lambda b: b + 0j, (1, 4, 4))
    with pytest.raises(BadInputError, match=r"must be \(batch, y, x\)"):
        eq.FunctionOp(lambda x: x, lambda b: b, (16,))


def test_a_sample_of_numpy_without_the_batch_axis(problem):
    operator, data, _, _ = problem
    sample = eq.Sample(operator, data[0].numpy(), np.ones((10, 8)), 0.1)
    assert sample.data.shape == data.shape
    assert sample.target.shape == operator.image_shape
    assert sample.noise_level.shape == (1,)
    with pytest.raises(BadInputError, match="the target has the shape"):
        eq.Sample(operator, data, np.ones((8, 10)), 0.1)


def test_a_scan_of_arrays_is_that_of_the_file(scan_arrays, full_scan):
    kspace, csm = scan_arrays["kspace"], scan_arrays["csm"]
    scan = eq.Acquisition.from_arrays(kspace[0], mask=np.ones(64), csm=csm[0])
    assert torch.equal(scan.samples, eq.read(full_scan).samples)
    assert torch.equal(scan.csm, torch.from_numpy(csm))
    assert torch.equal(eq.Acquisition.from_arrays(torch.from_numpy(kspace)).samples, scan.samples)
    with pytest.raises(BadInputError, match="k-space is complex"):
        eq.Acquisition.from_arrays(abs(kspace))
    with pytest.raises(BadInputError, match="the given arrays: the coil maps have shape"):
        eq.Acquisition.from_arrays(kspace, csm=csm[:, :2])


def test_every_repr_fits_in_two_lines_and_holds_no_array(problem, scan_arrays):
    operator, data, model, solution = problem
    known = torch.ones(1, 10, 8)
    scan = eq.Acquisition.from_arrays(
        scan_arrays["kspace"], csm=scan_arrays["csm"], target=scan_arrays["image"]
    )
    small = eq.undersample(scan, 3.0, seed=0)
    found = eq.reconstruct(small, eq.MOL(eq.CNN(4, 2, gain=0.5), eq.FixedWeight(9.0), 0.4))
    shown = {
        "(frame 1, coil 6, y 72, x 64): Cartesian, 72 x 64, 1.00-fold": scan,
        "with coil maps and a target": small,
        "Reconstruction of 1 slice, 72 x 64: converged": found,
        "dB": found,
        "SliceResult 0: converged, lam 9": found.slices[0],
        "Certificate of slice 0 (mol-lr): converged": eq.certify_slice(
            eq.Problem(operator, data, 0.1), model
        ),
        "OwnNetwork(Identity)": eq.MOL(torch.nn.Identity(), eq.FixedWeight(5.0), 0.1).network,
        "m 0.1 (claimed)": eq.MOL(torch.nn.Identity(), eq.FixedWeight(5.0), 0.1),
        "SenseOp": operator,
        "adjoint of SenseOp of 3 coils": operator.H,
        "FunctionOp from images": eq.FunctionOp(lambda x: known * x, lambda b: b, (1, 10, 8)),
        "BlurDownsampleOp from 24 x 21 to 8 x 7": eq.BlurDownsampleOp((24, 21)),
        "converged after": solution,
        "Problem: SenseOp": eq.Problem(operator, data, 0.1),
        "Sample of 1": eq.Sample(operator, data, data[:, 0], 0.1),
        "MOL": model,
        "CNN": model.network,
    }
    for words, thing in shown.items():
        text = repr(thing)
        assert words in text
        assert "tensor(" not in text
        assert text.count("\n") <= 1
        assert max(map(len, text.splitlines())) <= 100
