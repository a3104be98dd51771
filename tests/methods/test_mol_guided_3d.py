"""Two passes for volumes: those of every plane, with factors that know the neighbours."""

import pytest
import torch

from equipoise.certificate.certify import certify_slice
from equipoise.certificate.linear_response import LinearResponse
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.formats.acquisition import make_acquisition
from equipoise.methods.mol_guided import MolGuided
from equipoise.methods.mol_guided_3d import MolGuided3D
from equipoise.methods.mol_ridge import MolRidge
from equipoise.networks.adaptation import AdaptationConfig, Units
from equipoise.networks.refinement import RefinementConfig
from equipoise.networks.ridge import Ridge
from equipoise.networks.ridge_planes import planes_of
from equipoise.outcome import BadInputError
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.coils.readout import plane_of, slices_along_readout
from equipoise.physics.problem import Problem
from equipoise.physics.sampling.masks import make_mask
from equipoise.recon.memory import estimate
from equipoise.vectors import inner, norm
from equipoise.zoo.model_file import load_model
from problems import DOUBLE, TIGHT, random_complex, sense_problem

SHAPE = (10, 8, 4)
NOISE = torch.tensor([0.05], dtype=torch.float64)


def volume_problem(shape=SHAPE, seed=0):
    """A and b of a volume whose lines along x are fully measured, complex128."""
    plane = make_mask("variable-density-2d", shape[:2], 2.0, 2, seed)
    csm = (
        biot_savart_maps(shape[:2], 3, seed).to(DOUBLE)[..., None].expand(-1, -1, -1, -1, shape[2])
    )
    operator = SenseOp(csm.contiguous(), plane[..., None].expand(-1, -1, -1, shape[2]).contiguous())
    return operator, random_complex((1, 3, *shape), seed) * operator.mask[:, None]


def of_one_plane(m=0.2, seed=0, limit=None):
    ridges = [Ridge(m, features=4, basis=2, seed=seed + k) for k in range(2)]
    adaptation = AdaptationConfig(features=4, hidden=5, limit=limit).build(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        adaptation.last.copy_(torch.randn(adaptation.last.shape, generator=generator))
    return MolGuided(ridges[1], MolRidge(ridges[0]), adaptation).double()


def of_volumes(blocks=0, **settings):
    """A model, with a refinement of some blocks whose weights are random."""
    model = MolGuided3D.of_planes(of_one_plane(**settings))
    if blocks:
        config = RefinementConfig(features=2, blocks=blocks, data_weight=0.7)
        model.refinement = config.build(seed=3)
        generator = torch.Generator().manual_seed(3)
        for block in model.refinement.blocks:
            with torch.no_grad():
                block.last.weight.copy_(torch.randn((2, 2, 1, 1), generator=generator))
    return model.double()


def alike(monkeypatch):
    """Factors of a plane that follow from this plane alone."""
    monkeypatch.setattr("equipoise.methods.mol_guided_3d.CENTRE", 1.0)
    monkeypatch.setattr("equipoise.methods.mol_guided_3d.BESIDE", 0.0)


def test_without_neighbours_it_is_the_method_of_every_plane(monkeypatch):
    alike(monkeypatch)
    monkeypatch.setattr("equipoise.methods.mol_guided.FIRST_RTOL", 1e-10)
    operator, data = volume_problem()
    plane = of_one_plane()
    plane.guide.options = TIGHT
    volume = MolGuided3D.of_planes(plane).double()
    held = {"noise_level": NOISE, "scale": 1.0, "options": TIGHT}
    with torch.no_grad():
        whole = volume.solve(operator, data, **held).value
        maps = operator.csm[0].movedim(-1, 0)
        slices = SenseOp(maps, plane_of(operator.mask[0])[None])
        many = {**held, "noise_level": NOISE.expand(SHAPE[2])}
        alone = plane.solve(slices, slices_along_readout(data[0]), **many).value
    assert float((norm(planes_of(whole) - alone) / norm(alone)).max()) < 1e-7


@pytest.mark.parametrize("limit", [None, 0.5])
@pytest.mark.parametrize("voxels", [1, 100, 10_000])
def test_factors_follow_from_the_mean_coefficients_of_three_planes(voxels, limit, monkeypatch):
    monkeypatch.setattr("equipoise.networks.ridge_planes.AT_ONCE", voxels)
    volume = MolGuided3D.of_planes(of_one_plane(limit=limit)).double()
    image, threshold = random_complex((2, 6, 5, 7)), torch.tensor([0.1, 0.2]).double()
    with torch.no_grad():
        c = volume.guide.network.coefficients(image, threshold)
        c = c.reshape(2, 7, 4, 6, 5)
        before, after = c[:, [0, *range(6)]], c[:, [*range(1, 7), 6]]
        mean = (c / 2 + before / 4 + after / 4).flatten(0, 1)
        units = Units(torch.ones(4), torch.ones(4), torch.tensor([1.0, 2.0]))
        each = units._replace(ratio=units.ratio.repeat_interleave(7))
        expected = volume.adaptation(mean, each).reshape(c.shape)
        assert torch.allclose(volume._factors(image, threshold, units), expected)


@pytest.mark.parametrize("limit", [None, 0.5])
def test_the_distance_is_certified_and_no_change_of_the_data_breaks_the_bounds(limit):
    operator, data = volume_problem()
    model = MolGuided3D.of_planes(of_one_plane(limit=limit)).double()
    with torch.no_grad():
        before = model.solve(operator, data, noise_level=NOISE, options=TIGHT)
        assert before.converged
        assert model.m_evidence == "proved"
        assert before.value.shape == (1, *SHAPE)
        bound = model.amplification(before)
        assert bound.end_to_end > bound.first_held
        # With the first image held, the first number holds alone.
        y = before.first.value
        networks = [
            model.of_first(before)(image) for image in (y, y + 0.1 * random_complex(y.shape))
        ]
        x = random_complex(y.shape, 5)
        change = norm(networks[0](x) - networks[1](x)) / norm(0.1 * random_complex(y.shape))
        assert 0 < float(change) <= model._first_lipschitz(before)


def solution_and_derivative(model, operator, data, change):
    """The equilibrium, and how it moves along a change of the data, by differences."""
    held = {"noise_level": NOISE, "scale": 1.0, "options": TIGHT}
    with torch.no_grad():
        solution = model.solve(operator, data, **held)
        ahead, behind = (model.solve(operator, data + e * change, **held) for e in (1e-5, -1e-5))
    expected = (ahead.value - behind.value) / 2e-5
    return solution, expected


@pytest.mark.parametrize("blocks", [0, 1, 3])
@pytest.mark.parametrize("voxels", [1, 60, 10_000])
def test_23_the_linear_response_of_slabs_is_the_derivative_and_its_transpose(
    voxels, blocks, monkeypatch
):
    """Slabs of one plane, of two, and of all: of both passes and of what lies between them."""
    monkeypatch.setattr("equipoise.networks.ridge_planes.AT_ONCE", voxels)
    monkeypatch.setattr("equipoise.networks.ridge_planes.KEPT", voxels)
    monkeypatch.setattr("equipoise.methods.mol_guided.FIRST_RTOL", TIGHT.rtol)
    operator, data = volume_problem((6, 5, 5))
    model = of_volumes(blocks)
    model.guide.options = TIGHT
    change = random_complex(data.shape, 6) * operator.mask[:, None]
    solution, expected = solution_and_derivative(model, operator, data, change)
    response = LinearResponse(model, operator, solution, rtol=1e-7)
    assert float(norm(response(change) - expected) / norm(expected)) < 1e-4
    image = random_complex(expected.shape, 8)
    left, right = inner(image, expected), inner(response.transposed(image), change)
    assert float(right) == pytest.approx(float(left), rel=1e-3)


@pytest.mark.parametrize("blocks", [0, 1, 3])
@pytest.mark.parametrize("voxels", [1, 60, 10_000])
def test_the_gradient_goes_through_the_first_pass(voxels, blocks, monkeypatch):
    monkeypatch.setattr("equipoise.networks.ridge_planes.AT_ONCE", voxels)
    monkeypatch.setattr("equipoise.networks.ridge_planes.KEPT", voxels)
    operator, data = volume_problem((6, 5, 3))
    options = SolverOptions(rtol=1e-10, max_iter=200, window=10, exact=False)
    monkeypatch.setattr("equipoise.methods.mol_guided.FIRST_RTOL", 1e-10)
    model = of_volumes(blocks)
    model.guide.options = options
    weight = random_complex((1, 6, 5, 3), 5)
    change = random_complex(data.shape, 6) * operator.mask[:, None]

    def image(b):
        return model.solve(operator, b, noise_level=NOISE, scale=1.0, options=options).value

    b = data.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(inner(image(b), weight).sum(), b)
    with torch.no_grad():
        ahead, behind = (image(data + step * change) for step in (1e-5, -1e-5))
    expected = float(inner(ahead - behind, weight).sum()) / 2e-5
    assert abs(float(inner(gradient, change).sum()) - expected) < 1e-4 * abs(expected)


def test_a_refinement_before_any_training_changes_nothing():
    operator, data = volume_problem()
    model = of_volumes()
    held = {"noise_level": NOISE, "options": TIGHT}
    with torch.no_grad():
        before = model.solve(operator, data, **held)
        model.refinement = RefinementConfig(features=3).build().double()
        after = model.solve(operator, data, **held)
    assert torch.equal(before.value, after.value)
    assert model.neighbours == 2


def test_with_a_refinement_an_image_follows_its_scale_and_phase_and_its_distance_is_certified():
    operator, data = volume_problem()
    model = of_volumes(blocks=2)
    turn = 3 * torch.polar(torch.ones(1), torch.tensor([1.2])).to(DOUBLE)
    with torch.no_grad():
        plain = of_volumes()
        without = plain.solve(operator, data, noise_level=NOISE, options=TIGHT)
        found = model.solve(operator, data, noise_level=NOISE, options=TIGHT)
        turned = model.solve(operator, turn * data, noise_level=3 * NOISE, options=TIGHT)
        other = model.solve(operator, data, noise_level=NOISE, options=SolverOptions(rtol=0.01))
        distance = norm(other.value - found.value) / norm(other.value)
    assert float(norm(turned.value - turn * found.value) / norm(turned.value)) < 1e-6
    assert float(norm(without.value - found.value) / norm(found.value)) > 1e-3
    assert model.m_evidence == "proved"
    # Both start from the same first image, and F is the same.
    assert 1e-6 < float(distance) < float(other.distance_bound) < 0.01
    bound = model.amplification(found)
    assert bound.end_to_end is None
    assert bound.first_held == pytest.approx(plain.amplification(without).first_held)


def test_a_certificate_says_that_nothing_bounds_what_moves_through_a_refinement():
    operator, data = volume_problem()
    found = certify_slice(Problem(operator, data, NOISE), of_volumes(blocks=2)).certificate
    assert found.statements["distance_bound"].evidence == "proved"
    for name in ("perturbation_bound", "noise_bound"):
        statement = found.statements[name]
        assert (statement.value, statement.evidence) == (None, "not available")
        assert "because a network refined it" in statement.meaning
        assert f"{found.second_pass_bound:.3g} ||d||" in statement.meaning


def test_where_a_mixes_planes_the_response_of_a_refinement_is_the_derivative_too(monkeypatch):
    monkeypatch.setattr("equipoise.networks.ridge_planes.AT_ONCE", 60)
    monkeypatch.setattr("equipoise.methods.mol_guided.FIRST_RTOL", TIGHT.rtol)
    whole, data = volume_problem((6, 5, 5))
    mask = whole.mask.clone()
    mask[..., ::2, :, 3] = False
    operator = SenseOp(whole.csm, mask)
    data, model = data * mask[:, None], of_volumes(blocks=2)
    model.guide.options = TIGHT
    change = random_complex(data.shape, 6) * mask[:, None]
    solution, expected = solution_and_derivative(model, operator, data, change)
    response = LinearResponse(model, operator, solution, rtol=1e-7)
    assert float(norm(response(change) - expected) / norm(expected)) < 1e-4


def test_a_refined_image_that_is_known_is_not_refined_again(monkeypatch):
    operator, data = volume_problem()
    model = of_volumes(blocks=2)
    held = {"noise_level": NOISE, "options": TIGHT}
    with torch.no_grad():
        whole = model.solve(operator, data, **held)
        expected = model.solve(operator, data, **held, lam=3 * whole.lam)
        again = model.after_first(whole)
        monkeypatch.delattr(model.refinement, "blocks")
        found = again.solve(operator, data, **held, lam=3 * whole.lam)
    assert float(norm(found.value - expected.value) / norm(expected.value)) < 1e-6


def test_a_certificate_is_planned_with_the_blocks_that_the_response_goes_through(monkeypatch):
    monkeypatch.setattr("equipoise.networks.ridge_planes.AT_ONCE", 60)
    operator, data = volume_problem((*SHAPE[:2], 12))
    kspace = data.to(torch.complex64).numpy()
    scan = make_acquisition(kspace, "v", "test", csm=operator.csm.numpy(), volume=True)
    lost = kspace.copy()
    lost[..., 0, -1] = 0
    mixed = make_acquisition(lost, "v", "test", csm=operator.csm.numpy(), volume=True)

    def added(model, scan=scan):
        certified = estimate(scan, model, certificate="plain")
        return certified - estimate(scan, model)

    assert added(of_volumes()) < added(of_volumes(1)) < added(of_volumes(2))
    # Where lines along x are not whole, all planes are one slab.
    assert added(of_volumes(2), mixed) > added(of_volumes(2))
    assert added(of_volumes(1), mixed) == added(of_volumes(1))


def test_an_image_of_one_plane_is_refused():
    operator, data = sense_problem(batch=1)
    model = MolGuided3D.of_planes(of_one_plane()).double()
    with pytest.raises(BadInputError, match=r"\(y, x\), and mol-guided-3d.*\(z, y, x\)"):
        model.solve(operator, data, noise_level=NOISE)


def test_that_of_the_package_has_the_passes_of_one_plane_their_proof_and_a_refinement():
    volume, plane = load_model("mol-guided-volume"), load_model("mol-guided-sharp")
    assert isinstance(volume, MolGuided3D)
    assert volume.m_evidence == "proved"
    assert volume.usual_lam == "auto"
    assert plane.calibration is not None
    assert volume.calibration is None
    # The passes are those of one plane; lam and the thresholds are lower in all volumes.
    lowered = {"data_weight.coefficients", "threshold_rule.coefficients"}
    for name, weight in plane.state_dict().items():
        own = volume.state_dict()[name]
        assert torch.equal(own, weight) == (name not in lowered), name
        if name in lowered:
            assert float(own[0]) < float(weight[0])
            assert torch.equal(own[1:], weight[1:])
    assert all(bool(block.last.weight.any()) for block in volume.refinement.blocks)
