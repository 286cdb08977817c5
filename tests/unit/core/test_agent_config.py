import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.agent_config import PREFIX, AgentConfig, arn, function_arn

# An environment variable holds no NUL and no lone surrogate.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
VALUES = {
    "str": TEXT,
    "int": st.integers(),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
}
CONFIGS = st.builds(AgentConfig, **{name: VALUES[kind] for name, kind in AgentConfig.__annotations__.items()})


@given(CONFIGS)
def test_a_config_comes_back_from_its_environment(config: AgentConfig) -> None:
    environment = config.to_env()
    assert AgentConfig.from_env(environment) == config
    assert all(name.startswith(PREFIX) and isinstance(value, str) for name, value in environment.items())


def test_a_default_is_left_out_of_the_environment() -> None:
    assert AgentConfig(function_name="hello").to_env() == {"KAPPA_FUNCTION_NAME": "hello"}
    assert AgentConfig(function_name="hello", sidecar=True, timeout=1.5).to_env() == {
        "KAPPA_FUNCTION_NAME": "hello",
        "KAPPA_SIDECAR": "1",
        "KAPPA_TIMEOUT": "1.5",
    }


def test_other_variables_are_not_its_business() -> None:
    environment = {"KAPPA_FUNCTION_NAME": "hello", "PATH": "/bin", "KAPPA_OF_A_NEWER_VERSION": "1", "TIMEOUT": "x"}
    assert AgentConfig.from_env(environment) == AgentConfig(function_name="hello")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KAPPA_MEMORY_MIB", "128Mi"),
        ("KAPPA_TIMEOUT", "30s"),
        ("KAPPA_TIMEOUT", ""),
        ("KAPPA_CONCURRENCY", "1.5"),
        ("KAPPA_SIDECAR", "yes"),
        ("KAPPA_PORT", ""),
    ],
)
def test_a_value_that_cannot_be_read_is_named(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=variable) as refused:
        AgentConfig.from_env({"KAPPA_FUNCTION_NAME": "hello", variable: value})
    assert repr(value) in str(refused.value)


def test_a_missing_name_says_who_starts_the_agent() -> None:
    with pytest.raises(ValueError, match=r"KAPPA_FUNCTION_NAME is not set.*kappa local up"):
        AgentConfig.from_env({})


def test_the_name_alone_is_required() -> None:
    with pytest.raises(TypeError, match="function_name is needed"):
        AgentConfig()  # type: ignore[call-arg]  # that is the test
    with pytest.raises(TypeError, match="memory_mb"):
        AgentConfig(function_name="hello", memory_mb=1)  # type: ignore[call-arg]
    assert AgentConfig(function_name="hello").memory_mib == 128


def test_a_config_is_a_value() -> None:
    config = AgentConfig(function_name="hello", port=0)
    same = AgentConfig(function_name="hello", port=0, memory_mib=128)
    assert config == same
    assert hash(config) == hash(same)
    assert config.replace(port=1) == AgentConfig(function_name="hello", port=1)
    assert "function_name='hello'" in repr(config)
    with pytest.raises(AttributeError, match="frozen"):
        config.port = 2  # type: ignore[misc]


def test_an_arn_names_the_namespace_unless_it_is_the_default_one() -> None:
    assert (
        arn("eu-west-1", "123456789012", "default", "hello") == "arn:aws:lambda:eu-west-1:123456789012:function:hello"
    )
    config = AgentConfig(function_name="hello", function_namespace="team-a")
    assert function_arn(config) == "arn:aws:lambda:us-east-1:000000000000:function:team-a.hello"
