"""Where a Function's code is."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, StringConstraints

from kappa_core.function.base import ObjectName, Rule, SpecModel

INLINE_MAX_CHARS: Final = 30_000
"""Inline code is in an environment variable of the pod. Linux allows 128 KiB for it; a character has up to 4 bytes."""

_Argument = Annotated[str, StringConstraints(max_length=4096)]


class ConfigMapCode(SpecModel):
    """Code in a ConfigMap: every key is a file in the task root."""

    name: ObjectName = Field(
        description="The ConfigMap, in the Function's namespace. A change to its data rolls the pods."
    )


class ArchiveCode(SpecModel):
    """Code in a zip file, fetched when a pod starts."""

    url: str = Field(
        pattern=r"^(https?|s3)://[!-~]+$",
        max_length=2048,
        description="The address of the zip: an http(s):// or s3:// URL. For s3 the credentials come from the "
        "function's environment, as in the AWS SDKs.",
    )
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="The zip's SHA-256 in lower-case hex. An archive with another hash is refused. A new hash rolls "
        "the pods.",
    )


class ImageCode(SpecModel):
    """A container image that holds the function."""

    ref: str = Field(
        max_length=1024,
        pattern=r"^[!-~]+$",
        description="The image, such as registry.example.com/team/hello:1.2.",
    )
    protocol: Literal["lambda", "http"] = Field(
        default="lambda",
        description="How the image is called. lambda: it runs a Lambda runtime client (Lambda's own images do). http: "
        "it is a web server on `port`. Default: lambda.",
    )
    port: int = Field(
        default=8080,
        ge=1,
        le=65535,
        description="With protocol http: the port that the server listens on. Default: 8080.",
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None,
        description="Kubernetes' imagePullPolicy. Default: Kubernetes' own (Always for :latest, else IfNotPresent).",
    )
    command: list[_Argument] | None = Field(
        default=None, max_length=100, description="Instead of the image's ENTRYPOINT. Default: the image's."
    )
    args: list[_Argument] | None = Field(
        default=None,
        max_length=100,
        description="Instead of the image's CMD. For Lambda's images: the handler. Default: the image's.",
    )


class Code(SpecModel):
    """Where the code is: exactly one of the fields."""

    inline: str | None = Field(
        default=None,
        min_length=1,
        max_length=INLINE_MAX_CHARS,
        description="The source, at most 30,000 characters. It is saved as the handler's module (main.py for the "
        "handler main.handler).",
    )
    config_map: ConfigMapCode | None = Field(default=None, description="A ConfigMap whose keys are the files.")
    archive: ArchiveCode | None = Field(default=None, description="A zip file, by URL and hash.")
    image: ImageCode | None = Field(default=None, description="A container image.")

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.inline), has(self.configMap), has(self.archive), has(self.image)].filter(x, x).size() == 1",
            holds=lambda self: [self.inline, self.config_map, self.archive, self.image].count(None) == 3,
            message="set exactly one of inline, configMap, archive and image",
        ),
    )
