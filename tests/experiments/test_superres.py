"""Super-resolution: the operator, photographs, the commands."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from equipoise.certificate.certify import certify_slice
from equipoise.certificate.noise import agreement
from equipoise.certificate.noise_map import replica_noise_map, slice_noise_map
from equipoise.cli.app import app
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.experiments.superres import photographs
from equipoise.formats.photograph import Photograph, read_photograph, write_photograph
from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.mol import MOL
from equipoise.networks.cnn import CNN
from equipoise.outcome import BadInputError
from equipoise.physics.generic import FunctionOp
from equipoise.physics.least_squares import conjugate_gradient, solve_regularized
from equipoise.physics.linop import adjoint_error, operator_norm
from equipoise.physics.problem import Problem
from equipoise.physics.superres import BlurDownsampleOp, resize_bicubic
from equipoise.recon.enlarge import enlarge
from equipoise.report.content import write_certificate_report
from equipoise.training.sources.images import load_images
from equipoise.training.sources.photographs import SuperResolution
from equipoise.zoo.model_file import load_model
from problems import new_method

KERNELS, BORDERS, FACTORS = ("gaussian", "bicubic"), ("zero", "circular", "reflect"), (2, 3, 4)
SHAPE = (36, 48)


def picture(shape=(40, 52), seed=0):
    """Smooth blobs and an edge, 0 to 1."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0.2, 0.8, (1, 6, 8)))
    smooth = resize_bicubic(coarse, shape)[0].numpy()
    smooth[:, shape[1] // 2 :] += 0.15
    return np.clip(smooth, 0, 1)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("factor", FACTORS)
class TestOperator:
    def test_adjoint(self, kernel, border, factor):
        assert adjoint_error(BlurDownsampleOp(SHAPE, factor, kernel, border, batch=2)) < 1e-14

    def test_the_closed_form_is_what_conjugate_gradients_find(self, kernel, border, factor):
        operator = BlurDownsampleOp(SHAPE, factor, kernel, border, batch=2)
        generator = torch.Generator().manual_seed(0)
        rhs = torch.randn((2, *SHAPE), dtype=torch.complex128, generator=generator)
        weight, shift = torch.tensor([[30.0, 900.0], [1.0, 1.3]], dtype=torch.float64)
        exact = solve_regularized(operator, rhs, weight, shift)
        found = conjugate_gradient(operator, rhs, weight, shift, rtol=1e-13, max_iter=3000)
        assert exact.iterations == 0
        assert torch.allclose(exact.value, found.value, atol=1e-11)

    def test_a_constant_image_keeps_its_value(self, kernel, border, factor):
        operator = BlurDownsampleOp(SHAPE, factor, kernel, border)
        small = operator.forward(torch.full((1, *SHAPE), 0.7, dtype=torch.complex128))
        inside = small if border != "zero" else small[:, 3:-3, 3:-3]
        assert torch.allclose(inside, torch.full_like(inside, 0.7))
        assert small.shape == (1, SHAPE[0] // factor, SHAPE[1] // factor)
        sizes = [float(torch.linalg.matrix_norm(rows, 2)) for rows in operator._rows]
        assert 0.98 < float(operator_norm(operator, 60)) / (sizes[0] * sizes[1]) < 1 + 1e-6


class TestBlur:
    def test_it_is_a_convolution_and_every_third_pixel(self):
        """Against the two steps done by another library, in 2D and not separably."""
        operator = BlurDownsampleOp((30, 33), 3, "gaussian", "zero")
        t = torch.arange(-3, 4).double()
        taps = torch.exp(-0.5 * t**2)
        kernel = torch.outer(taps, taps) / taps.sum() ** 2
        image = torch.rand((1, 30, 33), dtype=torch.float64)
        blurred = torch.nn.functional.conv2d(image[None], kernel[None, None], padding=3)[0]
        small = operator.forward(image.to(torch.complex128)).real
        assert torch.allclose(small, blurred[:, 1::3, 1::3], atol=1e-14)

    @pytest.mark.parametrize("factor", FACTORS)
    def test_the_bicubic_kernel_is_that_of_pillow(self, factor):
        image = picture((48, 60)).astype(np.float32)
        ours = BlurDownsampleOp((48, 60), factor, "bicubic", "reflect")
        small = ours.forward(torch.from_numpy(image)[None].to(torch.complex64))[0].real.numpy()
        theirs = np.asarray(
            Image.fromarray(image).resize((60 // factor, 48 // factor), Image.Resampling.BICUBIC)
        )
        inside = slice(3, -3), slice(3, -3)  # borders are treated differently
        assert np.abs(small - theirs)[inside].max() < 1e-5

    def test_the_wrong_shape_is_an_error(self):
        with pytest.raises(BadInputError, match="side of 5 pixels and the kernel has 7"):
            BlurDownsampleOp((5, 40), 3)
        with pytest.raises(BadInputError, match="crop it to multiples of 3"):
            BlurDownsampleOp((37, 40), 3, border="circular")
        with pytest.raises(BadInputError, match="factor is 0"):
            BlurDownsampleOp((37, 40), 0)


class TestOwnOperators:
    """What a user's pair of functions gets: MOL, its gradient and its bound, unchanged."""

    @staticmethod
    def inpainting():
        known = torch.rand((1, 20, 24), generator=torch.Generator().manual_seed(0)) > 0.5
        return FunctionOp(lambda x: known * x, lambda b: known * b, (1, 20, 24))

    @staticmethod
    def deconvolution():
        taps = torch.fft.fft(torch.tensor([0.4, 0.3, 0.1, 0, 0, 0, 0, 0.2] + [0.0] * 16))

        def filtered(x, response):
            return torch.fft.ifft(torch.fft.fft(x, dim=-1) * response, dim=-1)

        return FunctionOp(
            lambda x: filtered(x, taps), lambda b: filtered(b, taps.conj()), (1, 20, 24)
        )

    @pytest.mark.parametrize("name", ["inpainting", "deconvolution"])
    def test_an_equilibrium_with_its_bound_and_its_gradient(self, name):
        operator = getattr(self, name)()
        model = MOL(CNN(features=6, layers=3, gain=0.6), FixedWeight(8.0), 0.3).double().eval()
        data = operator.forward(torch.from_numpy(picture((20, 24)))[None].to(torch.complex128))
        with torch.no_grad():
            loose = model.solve(operator, data, options=SolverOptions(rtol=1e-2))
            tight = model.solve(operator, data, options=SolverOptions(rtol=1e-10))
        distance = (loose.value - tight.value).norm() / loose.value.norm()
        assert loose.converged
        assert float(distance) <= float(loose.distance_bound) + 1e-9
        model(data, operator).abs().square().sum().backward()
        assert all(bool(p.grad.abs().sum() > 0) for p in model.network.parameters())

    @pytest.mark.parametrize("name", ["inpainting", "deconvolution"])
    def test_a_certificate_and_its_page(self, name, tmp_path):
        operator = getattr(self, name)()
        network = {"features": 6, "layers": 3, "kernel_size": 3, "channels": 1}
        options = {"network": network, "lam": 8.0, "m": 0.3, "iterations": 1, "seed": 0}
        model = new_method("mol-sn", **options).for_inference().eval()
        data = operator.forward(torch.from_numpy(picture((20, 24)))[None].to(torch.complex64))
        problem = Problem(operator, data, torch.full((1,), 0.01, dtype=torch.float64))
        found = certify_slice(problem, model, noise_probes=200, epsilon=0.02)
        certificate = found.certificate
        assert certificate.m_evidence == "proved"
        assert certificate.measured_amplification <= certificate.perturbation_bound
        assert certificate.measured_amplification > certificate.random_amplification
        attack = found.attack.perturbation
        assert attack.imag.norm() < 1e-5 * attack.real.norm(), "real data, real attack"
        with torch.no_grad():
            solution = model.solve(operator, data, noise_level=problem.noise_level)
        replicas = replica_noise_map(problem, model, solution, probes=200, seed=1)
        assert agreement(found.noise.std, replicas.std, replicas.std > 0).ratio == pytest.approx(
            1, abs=0.05
        )
        page = tmp_path / "page.html"
        write_certificate_report(page, [found], name=name, model="mine")
        text = page.read_text()
        assert "perturbation bound" in text
        assert "least squares" in text
        assert "receiver coils" not in text
        assert "ESPIRiT" not in text
        with pytest.raises(BadInputError, match="exists"):
            write_certificate_report(page, [found], name=name, model="mine")

    def test_little_noise_is_seen_by_replicas_too(self):
        operator = self.inpainting()
        model = MOL(CNN(features=6, layers=3, channels=1, gain=0.6), FixedWeight(8.0), 0.3).eval()
        data = operator.forward(torch.from_numpy(picture((20, 24)))[None].to(torch.complex64))
        problem = Problem(operator, data, torch.full((1,), 1e-4, dtype=torch.float64))
        with torch.no_grad():
            solution = model.solve(operator, data, options=SolverOptions(rtol=1e-6))
        linear = slice_noise_map(problem, model, solution, probes=64)
        replicas = replica_noise_map(problem, model, solution, probes=64)
        found = agreement(linear.std, replicas.std, replicas.std > 0)
        assert found.ratio == pytest.approx(1, abs=0.05)

    def test_black_pixels_are_measured_and_masked_ones_are_not(self):
        image = torch.from_numpy(picture((36, 48)))[None]
        image[:, :18] = 0
        operator = BlurDownsampleOp((36, 48), 3)
        data = operator.forward(image.to(torch.complex64))
        noise = torch.full((1,), 0.01, dtype=torch.float64)
        assert Problem(operator, data, noise).sample_count == data.numel()
        known = torch.zeros(data.shape, dtype=torch.bool)
        known[..., :4] = True
        assert Problem(operator, data, noise, mask=known).sample_count == known.sum()

    def test_an_adjoint_that_is_none_is_refused(self):
        with pytest.raises(BadInputError, match="adjoint does not match"):
            FunctionOp(lambda x: 2 * x, lambda b: b / 2, (1, 8, 8))


class TestRealNetworks:
    def test_the_equilibrium_of_real_data_is_real(self):
        model = MOL(CNN(features=6, layers=3, channels=1), FixedWeight(50.0), 0.1).eval()
        source = SuperResolution()
        image = torch.from_numpy(picture((36, 48)))
        sample = source.acquire(image, 0.01, np.random.default_rng(0))
        with torch.no_grad():
            value = model.solve(sample.operator, sample.data).value
        assert float(value.imag.abs().max()) < 1e-6 * float(value.real.abs().max())

    def test_the_imaginary_part_never_passes(self):
        network = CNN(features=6, layers=3, channels=1, skip=0.9)
        image = torch.complex(torch.rand(1, 9, 12), torch.rand(1, 9, 12))
        assert not network(image).imag.any()
        assert torch.equal(network(image).real, network(image.real + 0j).real)

    def test_samples_are_functions_of_their_seed(self):
        image = torch.from_numpy(picture((60, 72))).to(torch.complex64)
        one, again, other = (
            SuperResolution().sample(image, np.random.default_rng(s), crop=48) for s in (1, 1, 2)
        )
        assert torch.equal(one.data, again.data)
        assert not torch.equal(one.data, other.data)
        assert one.target.shape == (1, 48, 48)
        assert one.data.shape == (1, 16, 16)

    def test_the_noise_has_the_stated_level(self):
        image = torch.full((90, 90), 0.5)
        sample = SuperResolution().acquire(image, 0.05, np.random.default_rng(0))
        assert float((sample.data - 0.5).real.std()) == pytest.approx(0.05, rel=0.05)


class TestPhotographs:
    def save(self, path, array):
        Image.fromarray(array).save(path)
        return path

    def test_luminance_and_colour_come_back(self, tmp_path):
        rng = np.random.default_rng(0)
        colours = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        photo = read_photograph(self.save(tmp_path / "a.png", colours))
        expected = np.asarray(Image.fromarray(colours).convert("L"), float) / 255
        assert np.abs(photo.luminance - expected).max() < 0.003
        write_photograph(tmp_path / "b.png", photo)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), colours)

    def test_sixteen_bits_stay_sixteen_bits(self, tmp_path):
        values = (picture((12, 15)) * 65535).astype(np.uint16)
        source, target = tmp_path / "a.png", tmp_path / "b.tif"
        Image.fromarray(values).save(source)
        assert run("superres", source, "-o", target).exit_code == 0
        larger = np.asarray(Image.open(target))
        assert larger.dtype == np.uint16
        assert len(np.unique(larger)) > 600

    def test_training_reads_their_luminance(self, tmp_path):
        self.save(tmp_path / "a.jpg", (picture() * 255).astype(np.uint8))
        (image,) = load_images([tmp_path])
        assert image.shape == (40, 52)
        assert float(image.abs().max()) == 1


class TestCommand:
    @pytest.mark.parametrize(
        ("mode", "suffix"), [("L", ".png"), ("RGB", ".jpg"), ("RGBA", ".png"), ("P", ".tif")]
    )
    def test_any_photograph(self, tmp_path, mode, suffix):
        source, target = tmp_path / "in.png", tmp_path / f"out{suffix}"
        Image.fromarray((picture((21, 26)) * 255).astype(np.uint8)).convert(mode).save(source)
        done = run("superres", source, "-o", target, "--json")
        assert done.exit_code == 0, done.output
        with Image.open(target) as image:
            assert image.size == (78, 63)
            assert image.mode == {"L": "L", "RGB": "RGB", "RGBA": "RGBA", "P": "RGB"}[mode]
        found = json.loads(done.stdout)
        assert found["outcome"] == "converged"
        assert found["distance_bound"] <= 1e-3
        assert found["blocks"][0]["m_evidence"] == "claimed"

    def test_a_large_image_in_blocks_is_that_of_the_whole(self):
        photo = read_photograph_of(picture((50, 50)))
        model, source = load_model("mol-lr-superres-3x"), SuperResolution()
        tight = SolverOptions(rtol=1e-4, exact=False)
        whole, parts = (
            enlarge(photo, model, source, options=tight, block=block) for block in (256, 49)
        )
        assert len(whole.blocks) == 1
        assert len(parts.blocks) > 3
        difference = np.abs(whole.photograph.luminance - parts.photograph.luminance)
        assert difference.max() < 2e-3

    def test_it_is_sharper_than_interpolation(self, tmp_path):
        ((_, image),) = photographs([], 3)
        image = image[120:312, 180:372]
        source = SuperResolution()
        sample = source.acquire(image, 0.005, np.random.default_rng(0))
        photo = read_photograph_of(sample.data[0].real.double().numpy())
        found = enlarge(photo, load_model("mol-lr-superres-3x"), source, noise=0.005)
        bicubic = resize_bicubic(sample.data, (192, 192))[0].real.numpy()
        inside = slice(8, -8), slice(8, -8)
        ours, theirs = (
            np.mean((estimate - image.numpy())[inside] ** 2)
            for estimate in (found.photograph.luminance, bicubic)
        )
        assert ours < 0.9 * theirs

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"no image", "not an image that is known"), (b"", "not an image that is known")],
    )
    def test_what_is_no_image(self, tmp_path, content, message):
        path = tmp_path / "bad.png"
        path.write_bytes(content)
        self.fails(tmp_path, path, "out.png", message)

    def test_a_truncated_file(self, tmp_path):
        path = tmp_path / "cut.png"
        Image.fromarray((picture((50, 60)) * 255).astype(np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:800])
        self.fails(tmp_path, path, "out.png", "cannot be read as an image")

    def test_what_cannot_be_used(self, tmp_path):
        tiny, clear, good = (tmp_path / name for name in ("tiny.png", "clear.png", "good.png"))
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tiny)
        Image.fromarray(np.zeros((9, 9), np.uint8)).convert("RGBA").save(clear)
        Image.fromarray(np.full((9, 9), 99, np.uint8)).save(good)
        self.fails(tmp_path, tiny, "out.png", "too small")
        self.fails(tmp_path, clear, "out.jpg", "JPEG cannot store it")
        self.fails(tmp_path, good, "out.xyz", "the suffix has no known format")
        self.fails(tmp_path, good, "nowhere/out.png", "is not a folder")
        self.fails(tmp_path, tmp_path / "missing.png", "out.png", "does not exist")
        (tmp_path / "out.png").write_bytes(b"mine")
        done = run("superres", good, "-o", tmp_path / "out.png")
        assert done.exit_code == 1
        assert (tmp_path / "out.png").read_bytes() == b"mine"

    def test_a_model_for_scans_is_refused(self, tmp_path):
        good = tmp_path / "good.png"
        Image.fromarray(np.full((9, 9), 99, np.uint8)).save(good)
        done = run("superres", good, "-o", tmp_path / "o.png", "--model", "mol-lr-brain-4x")
        assert done.exit_code == 1
        assert "not a model for super-resolution" in done.stderr

    def test_a_model_for_photographs_is_refused_for_scans(self, tmp_path, full_scan):
        for command, output in (("recon", "x.h5"), ("certify", "x")):
            options = ("-o", tmp_path / output, "--model", "mol-lr-superres-3x")
            done = run(command, full_scan, *options)
            assert done.exit_code == 1
            assert "is for photographs" in done.stderr

    @staticmethod
    def fails(folder, source, target, message):
        before = sorted(folder.rglob("*"))
        done = run("superres", source, "-o", folder / target)
        assert done.exit_code == 1, done.output
        assert message in done.stderr
        assert "Traceback" not in done.output
        assert sorted(folder.rglob("*")) == before


def test_the_experiment_refuses_what_it_cannot_measure(tmp_path):
    done = run("experiment", "superres", "--data", tmp_path, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "found no photograph" in done.stderr
    Image.fromarray(np.full((15, 60), 99, np.uint8)).save(tmp_path / "a.png")
    done = run("experiment", "superres", "--data", tmp_path, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "sides must have at least 36" in done.stderr


def read_photograph_of(luminance):
    return Photograph(luminance)


def test_the_experiment(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed in range(2):
        image = Image.fromarray((picture((125, 131), seed) * 255).astype(np.uint8))
        image.save(folder / f"{seed}.png")
    done = run("experiment", "superres", "--data", folder, "-o", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    methods = json.loads(done.stdout)["methods"]
    assert list(methods) == ["bicubic", "tikhonov", "mol-lr", "modl"]
    for found in methods.values():
        assert found["n"] == 2
        assert 15 < found["psnr"][0] < 45
        assert 0 < found["ssim"][0] < 1
    assert methods["mol-lr"]["converged"] == 2
    assert methods["mol-lr"]["largest_bound"] <= 1e-3
    assert methods["mol-lr"]["psnr"][0] > methods["tikhonov"]["psnr"][0]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    wanted = {"superres.md", "superres.csv", "superres.json", "photographs.csv", "figure2.png"}
    assert names == wanted
