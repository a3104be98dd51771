"""A model is one configuration: object, YAML and file agree; nothing is lost or taken on trust."""

import json
from typing import Any, get_args

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.mol import MOL, MolConfig
from equipoise.methods.registry import METHODS, AnyMethodConfig, new_method, stored_method
from equipoise.networks import proved
from equipoise.networks.cnn import CNN, CNNConfig
from equipoise.outcome import BadInputError
from equipoise.settings import Settings, checked
from equipoise.training.beginning import continued, first_model
from equipoise.training.calibrate import simulation_of
from equipoise.training.config import TrainConfig, load_config
from equipoise.zoo import evidence, model_file
from equipoise.zoo.find import chosen_model, find_model, packaged_models
from equipoise.zoo.header import checksum
from equipoise.zoo.model_file import load_model, model_config, save_model, verify
from problems import config_of
from problems import new_method as small_method

SMALL = {"features": 8, "layers": 2, "kernel_size": 3}
OTHER = {
    "features": 6,
    "kernel_size": 5,
    "layers": 3,
    "channels": 1,
    "tile": 16,
    "axis": "z",
    "skip": 0.4,
    "limit": 0.3,
}

OPTIONAL = {"mol-guided-3d": {"refinement": {"features": 4, "blocks": 2}}}
"""Parts that a method may lack."""


class Section(Settings):
    model: AnyMethodConfig = MolConfig()


def leaves(content: dict[str, Any], above: tuple[str, ...] = ()):
    """Every setting of a configuration, by its place."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, (*above, key))
        # A series alone has some; test_still_image.py saves those.
        elif key in ("kind", "reference", "spectral", "low_rank", "still"):
            continue
        elif key != "method" or above[-1:] == ("solver",):
            yield (*above, key), value


def changed(key: str, value: Any) -> Any:
    """Another value that the setting can have."""
    if key in OTHER:
        return OTHER[key]
    if isinstance(value, str):
        kinds = [get_args(hint) for hint in SolverOptions.__annotations__.values()]
        return next(o for kind in kinds if value in kind for o in kind if o != value)
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value / 2 or 0.25


def with_all_parts(name: str) -> dict[str, Any]:
    found = METHODS[name].Config.model_validate(OPTIONAL.get(name, {}))
    return found.model_dump()


def everything_changed(name: str):
    content = with_all_parts(name)
    for place, value in leaves(content):
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = changed(place[-1], value)
    return METHODS[name].Config.model_validate(content)


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_every_method_survives_saving_and_loading(name, tmp_path):
    config = everything_changed(name)
    model = new_method(config, seed=1)
    assert model.config == config
    save_model(tmp_path / "m.safetensors", model, {})
    loaded = load_model(tmp_path / "m.safetensors")
    assert type(loaded) is METHODS[name]
    assert loaded.config == config
    usual = dict(leaves(with_all_parts(name)))
    found = dict(leaves(loaded.config.model_dump()))
    assert found.keys() == usual.keys()
    for place, value in usual.items():
        assert found[place] != value, place
    if hasattr(config, "solver"):
        assert loaded.options == config.solver
    if hasattr(config, "shift"):
        assert loaded.shift == config.shift
        assert loaded.m == config.m + config.shift


@pytest.mark.parametrize("name", METHODS)
def test_a_configuration_names_the_weights_of_its_method_before_it_is_built(name):
    for config in (METHODS[name].Config(), config_of(name, SMALL), everything_changed(name)):
        state = stored_method(config).state_dict()
        assert config.shapes() == {key: tuple(value.shape) for key, value in state.items()}
    assert METHODS[name].Config().method == name == METHODS[name].name


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"method": "unet", "layers": 5}, "model.layers is not a setting of unet"),
        ({"method": "unet", "network": {"layers": 5}}, "network.layers is not a setting of unet"),
        ({"method": "modl", "m": 0.1}, "model.m is not a setting of modl"),
        ({"method": "mol-sn", "network": {"skip": 0.5}}, "skip is not a setting of mol-sn"),
        ({"iterations": 3}, "model.iterations is not a setting of mol-lr"),
        ({"features": 8}, "model.features is not a setting of mol-lr: .* model.network.features"),
        ({"network": {"kernel_size": 4}}, "kernel_size: 4 is even"),
        ({"network": {"features": 9000}}, "features: .* less than or equal to 512, not 9000"),
        ({"network": {"layers": 1000}}, "layers: .* less than or equal to 32, not 1000"),
        ({"solver": {"rtl": 1e-3}}, "model.solver.rtl is not a setting .*: did you mean rtol"),
        (
            {"solver": {"rtol": -1}},
            "model.solver: rtol is -1.0: it must be positive, and at most 1",
        ),
        ({"data_weight": {"kind": "fixed", "at": 0.1}}, "at is not a setting of fixed"),
        ({"data_weight": {"kind": "loud"}}, "kind: must be one of noise, fixed, not 'loud'"),
        ({"m": float("nan")}, "model.m: Input should be a finite number"),
        ({"method": "molr"}, "model.method: must be one of mol-lr, mol-m"),
    ],
)
def test_a_setting_that_a_method_does_not_have_is_an_error_that_names_it(section, words):
    with pytest.raises(BadInputError, match=words):
        checked(Section, "c.yaml", {"model": section})


def test_m_of_de_grad_is_used():
    model = new_method(config_of("de-grad", SMALL, m=0.3)).for_inference()
    assert model.m == 0.3
    assert 0.6 < model.network.lipschitz_upper() <= 0.7


def test_solver_options_that_are_left_out_are_those_of_the_method():
    config = METHODS["de-grad"].Config.model_validate({"solver": {"max_iter": 7}})
    assert (config.solver.max_iter, config.solver.step, config.solver.rule) == (
        7,
        "gradient",
        "step",
    )


def test_an_even_kernel_is_refused_where_the_network_is_built():
    with pytest.raises(BadInputError, match="kernel_size: 4 is even"):
        CNN(8, 3, 4)


class TestEvidence:
    def test_weights_that_were_scaled_up_are_not_proved_any_more(self, tmp_path):
        """The header does not matter: it is that of the proved file."""
        path = find_model("mol-sn")
        state, model = load_file(path), load_model(path)
        assert model.m_evidence == "proved"
        with torch.no_grad():
            model.network.kernels()[-1].mul_(1.5)
        save_model(tmp_path / "scaled.safetensors", model, {})
        assert load_model(tmp_path / "scaled.safetensors").m_evidence == "claimed"
        configuration = {
            "method": "mol-sn",
            "network": {"features": 64, "layers": 5, "kernel_size": 3, "channels": 2},
            "data_weight": "noise",
            "settings": {"m": 0.02, "m_evidence": "proved", "shift": 0.0},
        }
        state["network.convolutions.4.weight"] *= 1.5
        header = {"format": "equipoise-1", "configuration": json.dumps(configuration)}
        save_file(state, tmp_path / "old.safetensors", metadata=header)
        assert load_model(tmp_path / "old.safetensors").m_evidence == "claimed"

    def test_bounds_are_kept_by_the_bytes_that_they_are_bounds_of(self, tmp_path, monkeypatch):
        monkeypatch.setenv("EQUIPOISE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(evidence, "WORTH_KEEPING", 0)
        known: dict[str, float] = {}
        monkeypatch.setattr(proved, "known_norms", known)
        monkeypatch.setattr(evidence, "known_norms", known)
        path = tmp_path / "m.safetensors"
        save_model(path, small_method("mol-sn", network=SMALL, m=0.2), {})
        assert load_model(path).m_evidence == "proved"
        kept = json.loads(evidence.cache_file().read_text())
        assert len(kept) >= SMALL["layers"]

        def computed(*arguments):
            raise AssertionError("computed again")

        known.clear()
        with monkeypatch.context() as patch:
            patch.setattr(proved, "_computed", computed)
            assert load_model(path).m_evidence == "proved"
            known.clear()
            model = load_model(path)
            with torch.no_grad():
                model.network.kernels()[-1].mul_(1.5)
            with pytest.raises(AssertionError, match="computed again"):
                save_and_load(tmp_path / "other.safetensors", model)
        known.clear()
        evidence.cache_file().write_text('{"x": "proved", "y": NaN')
        assert load_model(path).m_evidence == "proved"


def save_and_load(path, model):
    save_model(path, model, {})
    return load_model(path)


class TestFiles:
    def test_every_shipped_model_is_what_its_header_says(self):
        for name in packaged_models():
            model = load_model(name)
            assert model.config == model_config(name)
            assert name.startswith(model.name.removesuffix("-3d"))
            assert len(verify(name)) == 64

    def test_sizes_beyond_the_weights_are_refused_before_anything_is_built(
        self, tmp_path, monkeypatch
    ):
        def build(*arguments):
            raise AssertionError("built")

        monkeypatch.setattr(model_file, "stored_method", build)
        path = tmp_path / "large.safetensors"
        for features, words in (
            (9000, "512, not 9000"),
            (512, "log_floor is missing instead of .* 67 more"),
        ):
            network = {"features": features, "layers": 32, "kernel_size": 15}
            content = {"method": "mol-lr", "network": network, "m": 0.02}
            header = {"format": model_file.FORMAT, "configuration": json.dumps(content)}
            save_file({"x": torch.ones(1)}, path, metadata=header)
            assert path.stat().st_size < 1000
            with pytest.raises(BadInputError, match=words):
                load_model(path)

    def test_other_weights_other_precisions_and_nan_are_refused(self, tmp_path):
        model, path = small_method("mol-lr", network=SMALL), tmp_path / "m.safetensors"
        save_model(path, model, {})
        header = {"format": model_file.FORMAT, "configuration": model.config.model_dump_json()}
        bias = "network.convolutions.0.bias"
        for wrong, words in (
            (torch.zeros(9), r"convolutions.0.bias is \(9,\) instead of \(8,\)"),
            (torch.zeros(8, dtype=torch.float64), "weights of float32, float64"),
            (torch.full((8,), torch.nan), "damaged: network.convolutions.0.bias is not finite"),
        ):
            save_file({**load_file(path), bias: wrong}, tmp_path / "w.safetensors", metadata=header)
            with pytest.raises(BadInputError, match=words):
                load_model(tmp_path / "w.safetensors")

    def test_double_precision_comes_back_as_it_was(self, tmp_path):
        model = small_method("mol-lr", network=SMALL).double()
        loaded = save_and_load(tmp_path / "m.safetensors", model)
        assert loaded.network.dtype == torch.float64
        state = loaded.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())

    @pytest.mark.parametrize("settings", [True, False])
    def test_headers_of_the_first_format_are_read(self, settings, tmp_path):
        model = MOL(CNN(8, 2), FixedWeight(1271.0), 0.1, shift=0.25)
        old: dict[str, Any] = {
            "network": {"features": 8, "layers": 2, "kernel_size": 3},
            "data_weight": "fixed",
        }
        own = {"m": 0.1, "m_evidence": "proved", "shift": 0.25}
        old |= {"method": "mol-lr", "settings": own} if settings else own
        header = {"format": "equipoise-1", "configuration": json.dumps(old)}
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        save_file(state, tmp_path / "m.safetensors", metadata=header)
        loaded = load_model(tmp_path / "m.safetensors")
        assert loaded.config.data_weight.lam == pytest.approx(1271)
        assert (loaded.m_network, loaded.shift, loaded.options) == (0.1, 0.25, model.options)
        assert loaded.m_evidence == "claimed"


class TestNames:
    def test_the_name_of_a_method_is_enough(self):
        assert find_model("mol-sn") == find_model("mol-sn-brain-4x")
        assert chosen_model("mol-sn") == "mol-sn-brain-4x"
        assert chosen_model("mol-lr", real=True) == "mol-lr-superres-3x"
        assert chosen_model("mol-lr", real=False) == "mol-lr-brain-4x"
        both = "2 models of mol-lr: choose from mol-lr-brain-4x, mol-lr-superres-3x"
        with pytest.raises(BadInputError, match=both):
            find_model("mol-lr")
        with pytest.raises(BadInputError, match="no model of mol-sn for real images"):
            chosen_model("mol-sn", real=True)

    def test_a_path_is_that_file_and_no_other(self, tmp_path, monkeypatch):
        save_model(tmp_path / "pair.safetensors", small_method("mol-lr", network=SMALL), {})
        with pytest.raises(BadInputError, match=r"not a file, but .*pair\.safetensors is one"):
            find_model(tmp_path / "pair")
        assert find_model(tmp_path / "pair.safetensors") == tmp_path / "pair.safetensors"
        monkeypatch.chdir(tmp_path)
        assert find_model("pair.safetensors").name == "pair.safetensors"
        with pytest.raises(BadInputError, match="no model 'mol-sn/pair'"):
            find_model("mol-sn/pair")


class TestStart:
    @pytest.fixture
    def start(self, tmp_path):
        """Like an imported checkpoint: a shift, a fixed lam, solver options."""
        options = SolverOptions(max_iter=200)
        model = MOL(CNN(8, 2), FixedWeight(1271.0), 0.02, shift=0.1, options=options)
        save_model(tmp_path / "start.safetensors", model, {})
        return tmp_path / "start.safetensors"

    def config(self, start, **model):
        data = {"train": ["a.npy"], "validation": ["b.npy"]}
        content = {"name": "x", "data": data, "start": start, "warmup_steps": 0, "model": model}
        return checked(TrainConfig, "c.yaml", content)

    def test_what_is_not_given_is_that_of_the_weights(self, start):
        config = continued(self.config(start, m=0.05))
        assert config.model.shift == 0.1
        assert config.model.solver.max_iter == 200
        assert config.limit == 0.95
        model = first_model(config)
        assert model.config == load_model(start).config.model_copy(update={"m": 0.05})
        noise = torch.tensor([0.3], dtype=torch.float64)
        assert float(model.lam(noise).detach()) == pytest.approx(1271)
        assert continued(config) == config

    @pytest.mark.parametrize(
        ("section", "words"),
        [
            ({"network": {"features": 64}}, "model.network.features is 64 and .* holds 8"),
            ({"data_weight": {"kind": "noise"}}, "model.data_weight.kind is noise and .* fixed"),
            ({"data_weight": {"lam": 20}}, "model.data_weight.lam is 20.0 and .* holds 1271"),
            ({"method": "mol-sn"}, "holds mol-lr and model.method is mol-sn"),
        ],
    )
    def test_what_contradicts_the_weights_is_refused_by_name(self, section, words, start):
        with pytest.raises(BadInputError, match=words):
            continued(self.config(start, **section))


def test_data_of_a_test_is_refused_where_weights_are_chosen(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "name: x\ndata: {train: [a.npy], validation: [b.npy], test: [c.npy]}\n"
    )
    with pytest.raises(BadInputError, match=r"data\.test names subjects that are kept for the"):
        load_config(tmp_path / "c.yaml")
    origin = {"config": {"data": {"test": ["c.npy"]}, "simulation": {}}}
    with pytest.raises(BadInputError, match=r"data\.test names subjects"):
        simulation_of(origin)


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        CNNConfig().features = 8


def test_a_file_from_before_a_term_was_known_needs_no_weights_of_it(tmp_path):
    model = new_method(METHODS["mol-ridge-3d"].Config(), seed=1)
    save_model(tmp_path / "m.safetensors", model, {})
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        metadata = dict(file.metadata())
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    del state["network.log_low_rank"]
    metadata["checksum"] = checksum(metadata, state)
    save_file(state, tmp_path / "old.safetensors", metadata=metadata)
    loaded = load_model(tmp_path / "old.safetensors")
    for key, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], weight), key
    del state["network.taps"]
    metadata["checksum"] = checksum(metadata, state)
    save_file(state, tmp_path / "broken.safetensors", metadata=metadata)
    with pytest.raises(BadInputError, match=r"network\.taps is missing"):
        load_model(tmp_path / "broken.safetensors")
