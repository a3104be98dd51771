"""Wavelets and total variation: what they minimise, what the gap proves, and BART beside them."""

import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pywt
import torch

import equipoise as eq
from equipoise.formats.cfl import cfl_bytes, read_cfl
from equipoise.methods.sparsity import Differences, Wavelets
from equipoise.methods.variational import TV, UNTRAINED, TVConfig, Wavelet, WaveletConfig
from equipoise.outcome import BadInputError, Outcome
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.vectors import inner
from problems import DOUBLE, random_complex, sense_problem

SHAPE = (20, 24)
PENALTIES = {
    "wavelet": lambda image: Wavelets(image, "db2", 16),
    "tv": Differences,
}
BART_STEP = 0.95
each = pytest.mark.parametrize("name", [*UNTRAINED])


def objective(model, operator, data, lam, image):
    misfit = operator.forward(image) - data
    return lam / 2 * inner(misfit, misfit) + model.sparsity(image).penalty(image)


@each
def test_synthesis_is_the_adjoint_of_analysis(name):
    x = random_complex((2, *SHAPE))
    penalty = PENALTIES[name](x)
    c = penalty.analysis(x)
    y = random_complex(c.shape, seed=1)
    assert inner(c, y) == pytest.approx(inner(x, penalty.synthesis(y)).tolist(), rel=1e-12)


@each
def test_gram_and_its_inverse_belong_to_the_analysis(name):
    x = random_complex((2, *SHAPE))
    penalty = PENALTIES[name](x)
    gram = penalty.synthesis(penalty.analysis(x))
    torch.testing.assert_close(penalty.gram(x), gram)
    back = penalty.gram_inverse(gram)
    mean = x.mean((1, 2), keepdim=True) if penalty.blind else 0
    torch.testing.assert_close(back, x - mean)


def test_wavelets_are_those_of_pywavelets():
    x = random_complex((1, 32, 32))
    levels = pywt.swt2(x[0].numpy(), "db2", level=2, norm=True)
    ours = Wavelets(x, "db2", 16).analysis(x)[0]
    assert len(ours) == 3 * 2 + 1
    finest = [np.abs(band).sum() for band in levels[-1][1]]
    assert sorted(finest) == pytest.approx(sorted(ours[:3].abs().sum((1, 2)).tolist()))
    assert np.abs(levels[0][0]).sum() == pytest.approx(float(ours[-1].abs().sum()))


def test_the_penalty_is_the_mean_over_the_shifts_of_an_orthonormal_transform():
    x = random_complex((1, 16, 16))[0].numpy()
    penalty = float(Wavelets(torch.tensor(x)[None], "db2", 16).penalty(torch.tensor(x)[None]))
    shifted = [np.roll(x, (i, j), (0, 1)) for i in range(2) for j in range(2)]
    norms = []
    for image in shifted:
        low, high = pywt.dwt2(image, "db2", mode="periodization")
        norms.append(sum(np.abs(band).sum() for band in (low, *high)))
    assert penalty == pytest.approx(np.mean(norms))


def test_the_penalty_of_wavelets_does_not_change_under_shifts():
    x = random_complex((1, *SHAPE))
    penalty = Wavelets(x, "db2", 16)
    assert penalty.penalty(x.roll((3, 5), (1, 2))) == pytest.approx(penalty.penalty(x).tolist())


def test_total_variation_of_a_square_is_its_perimeter_but_for_one_corner():
    x = torch.zeros((1, *SHAPE), dtype=DOUBLE)
    x[0, 8:16, 8:20] = 1j
    assert float(Differences(x).penalty(x)) == pytest.approx(2 * (8 + 12) - 2 + 2**0.5)


@each
def test_no_image_is_better_than_the_gap_allows(name):
    operator, data = sense_problem(shape=SHAPE)
    model = UNTRAINED[name]()
    loose = model.solve(operator, data, lam=5.0, scale=1.0)
    tight = model.solve(
        operator, data, lam=5.0, scale=1.0, options=replace(model.options, rtol=2e-3, max_iter=500)
    )
    assert loose.converged
    assert tight.converged
    assert bool((loose.objective_gap <= 1e-2).all() & (tight.objective_gap <= 2e-3).all())
    lowest = loose.objective * (1 - loose.objective_gap)
    assert not torch.equal(loose.value, tight.value)
    assert bool((tight.objective >= lowest).all())
    assert bool((tight.objective <= loose.objective).all())
    found = objective(model, operator, data, 5.0, loose.value)
    assert found.tolist() == pytest.approx(loose.objective.tolist())
    moved = loose.value + 1e-3 * random_complex(loose.value.shape)
    assert bool((objective(model, operator, data, 5.0, moved) > lowest).all())


@each
def test_each_sample_has_its_own_lam_and_stops_by_itself(name):
    operator, data = sense_problem(shape=SHAPE)
    model = UNTRAINED[name]()
    both = model.solve(operator, data, lam=np.array([2.0, 50.0]), scale=1.0)
    for i, lam in enumerate((2.0, 50.0)):
        one = SenseOp(operator.csm, operator.mask[i : i + 1])
        alone = model.solve(one, data[i : i + 1], lam=lam, scale=1.0)
        assert int(alone.iterations) == int(both.iterations[i])
        torch.testing.assert_close(alone.value[0], both.value[i], rtol=1e-6, atol=1e-9)


@each
def test_the_image_scales_with_its_data(name):
    operator, data = sense_problem(shape=SHAPE, batch=1)
    model = UNTRAINED[name]()
    image = model.solve(operator, data, noise_level=0.1).value
    scaled = model.solve(operator, 1e-3 * data, noise_level=1e-4).value
    torch.testing.assert_close(scaled, 1e-3 * image, rtol=1e-6, atol=1e-12)


@each
def test_zero_data_has_the_image_zero(name):
    operator, data = sense_problem(shape=SHAPE, batch=1)
    solution = UNTRAINED[name]().solve(operator, 0 * data, lam=5.0)
    assert solution.converged
    assert int(solution.value.count_nonzero()) == 0


@each
def test_what_did_not_converge_is_named_with_its_gap(name):
    operator, data = sense_problem(shape=SHAPE, batch=1)
    model = UNTRAINED[name]()
    short = model.solve(operator, data, lam=5.0, options=replace(model.options, max_iter=1))
    assert short.outcome == [Outcome.MAX_ITERATIONS]
    assert float(short.objective_gap) > 1e-2


@each
def test_lam_falls_with_the_noise_and_every_setting_changes_something(name):
    model = UNTRAINED[name]()
    low, high = model.lam(torch.tensor([0.01, 0.1]))
    assert low > high > 0
    operator, data = sense_problem(shape=SHAPE, batch=1)
    solve = {"operator": operator, "data": data, "noise_level": 0.1}
    kind, few = type(model), {"max_iter": 3}
    usual = kind(kind.Config(**few)).solve(**solve).value
    changed = [{"rule": {"value": 7.0}}, {"max_iter": 1}]
    if name == "wavelet":
        changed += [{"wavelet": "haar"}, {"coarsest": 32}, {"averaged": False}]
    for settings in changed:
        other = kind(kind.Config.model_validate({**few, **settings})).solve(**solve).value
        assert not torch.equal(other, usual), settings


class TestRefusals:
    @each
    def test_gradients(self, name):
        operator, data = sense_problem(shape=SHAPE, batch=1)
        with pytest.raises(BadInputError, match="has none: detach"):
            UNTRAINED[name]()(operator, data.requires_grad_())

    @each
    def test_volumes(self, name):
        operator = SenseOp(np.full((1, 2, 4, 8, 8), 0.5), np.ones((1, 4, 8, 8), bool))
        data = np.ones((1, 2, 4, 8, 8), complex)
        with pytest.raises(BadInputError, match="two dimensions"):
            UNTRAINED[name]().solve(operator, data)

    @each
    def test_a_negative_lam(self, name):
        operator, data = sense_problem(shape=SHAPE, batch=1)
        with pytest.raises(BadInputError, match="lam is"):
            UNTRAINED[name]().solve(operator, data, lam=-1.0)

    def test_wavelets_that_are_not_orthogonal(self):
        with pytest.raises(ValueError, match="not an orthogonal wavelet"):
            WaveletConfig(wavelet="bior2.2")

    def test_a_network(self):
        with pytest.raises(BadInputError, match="has no network"):
            eq.load_model("tv", network=torch.nn.Identity())


class TestFiles:
    @each
    def test_a_name_loads_the_method(self, name):
        assert eq.load_model(name).config == UNTRAINED[name]().config

    def test_a_yaml_file_holds_the_settings(self, tmp_path):
        path = tmp_path / "mine.yaml"
        path.write_text("method: tv\nrtol: 0.003\nrule: {value: 100}\n")
        model = eq.load_model(path)
        assert isinstance(model, TV)
        assert model.config == TVConfig(rtol=0.003, rule={"value": 100})
        assert model.options.rtol == 0.003

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("method: tv\nrtoll: 1", "did you mean rtol"),
            ("method: modl", "wavelet | tv"),
            ("[", "is not a YAML file"),
        ],
    )
    def test_a_wrong_yaml_file_is_refused(self, text, message, tmp_path):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        with pytest.raises(BadInputError, match=message.replace("|", r"\|")):
            eq.load_model(path)


def bart_pics(operator, data, penalty, weight, *options):
    """The image of BART, in the phase of this package: its transform is centred elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (("k", data[0]), ("s", operator.csm[0])):
            header, content = cfl_bytes(np.moveaxis(array.numpy(), 0, -1)[:, :, None])
            Path(folder, f"{name}.hdr").write_bytes(header)
            Path(folder, f"{name}.cfl").write_bytes(content)
        files = [f"{folder}/{name}" for name in "kso"]
        command = ["bart", "pics", "-w", "1", *options, "-R", f"{penalty}:7:0:{weight}", *files]
        subprocess.run(command, check=True, capture_output=True)
        image = torch.tensor(np.squeeze(read_cfl(Path(f"{folder}/o.cfl"))))[None].to(DOUBLE)
    phase = (operator.forward(image).conj() * data).sum()
    return image * phase / phase.abs()


def thresholded(model, image, weight):
    """The soft threshold after the last gradient step of FISTA, which BART 0.8 leaves out."""
    penalty = model.sparsity(image)
    found = penalty.analysis(image)
    kept = (1 - weight / penalty.size(found).clamp(min=1e-30)).clamp(min=0)
    return penalty.synthesis(kept * found)


@pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")
@pytest.mark.parametrize("name", ["wavelet", "tv"])
def test_bart_finds_the_same_minimum(name):
    size, lam = 64, 100.0
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    image = ((y**2 + x**2 < 0.35) * (1 + 0.5 * (x > y)) * torch.exp(0.5j * x)).to(DOUBLE)[None]
    csm = biot_savart_maps((size, size), 4, 0).to(DOUBLE)
    operator = SenseOp(csm, eq.make_mask("variable-density-2d", (size, size), 3.0, 12, 0))
    noise = 0.005 * random_complex(csm.shape) * operator.mask[:, None]
    data = operator.forward(image) + noise
    if name == "wavelet":
        model = Wavelet(WaveletConfig(averaged=False))
        after_a_step = bart_pics(operator, data, "W", 1 / lam, "-n", "-i", "100")
        theirs = thresholded(model, after_a_step, BART_STEP / lam)
    else:
        model = TV()
        theirs = bart_pics(operator, data, "T", 1 / lam, "-i", "100", "-u", "0.1")
    tight = replace(model.options, rtol=5e-3)
    ours = model.solve(operator, data, lam=lam, scale=1.0, options=tight)
    assert ours.converged
    found = float(objective(model, operator, data, lam, theirs))
    assert found == pytest.approx(float(ours.objective), rel=0.01)
    assert float(eq.psnr(theirs, image)) == pytest.approx(
        float(eq.psnr(ours.value, image)), abs=0.1
    )


@pytest.mark.parametrize("averaged", [True, False])
def test_wavelets_keep_the_norm(averaged):
    x = random_complex((1, 32, 40))
    penalty = Wavelets(x, "db2", 16, averaged)
    torch.testing.assert_close(penalty.synthesis(penalty.analysis(x)), x)


def test_one_shift_needs_a_matrix_that_can_be_halved():
    with pytest.raises(BadInputError, match="needs multiples of 4 x 4: average over shifts"):
        Wavelets(random_complex((1, 30, 32)), "db2", 16, averaged=False)
