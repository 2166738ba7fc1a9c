"""Which model a head belongs to: held in memory, or known by name and loaded when needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transfer_metrics.errors import IncompatibleStoreError, InvalidInputError
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.sources.models.candidates import candidates_of
from transfer_metrics.sources.models.identity import Settings
from transfer_metrics.sources.models.load_model import load_model
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.specs import HUB_NAMES, results_of
from transfer_metrics.untrusted import visible


@dataclass
class ModelRef:
    """A model by name and fingerprint, and the model itself once it is there.

    The name is the specification it was loaded from, which ``spec`` is where it has a name of one's
    own, or the class of a module; the fingerprint a SHA-256 over structure, weights and
    preprocessing. ``settings`` are its attributes, code and hooks, where they are known.
    """

    name: str
    revision: str
    fingerprint: str
    model: Model | None = None
    settings: Settings | None = None
    spec: str = ""

    @property
    def loads(self) -> bool:
        """Whether it is loaded from a hub, without the model being given."""
        # The name may come from a file, and a factory's name would run code of its choice.
        hub, colon, _ = (self.spec or self.name).partition(":")
        return bool(colon) and hub in HUB_NAMES

    @classmethod
    def of(cls, model: Model, settings: Settings | None = None) -> ModelRef:
        """Refer to a model that is loaded."""
        return cls(model.name, model.revision, model.fingerprint, model, settings, model.spec)

    @classmethod
    def of_store(cls, store: FeatureStore) -> ModelRef:
        """Refer to the model whose features a store holds."""
        manifest = store.manifest
        digest, changing = manifest.get("settings"), manifest.get("changing") or ()
        settings = None if digest is None else Settings(digest, tuple(changing))
        names = manifest["model"], manifest["revision"], manifest["model_fingerprint"]
        return cls(*names, settings=settings, spec=manifest.get("spec") or "")

    def get(self) -> Model:
        """The model, loaded from a hub by its name if it is not there yet."""
        if self.model is None:
            if not self.loads:
                raise InvalidInputError(
                    f"the head belongs to {self.name!r}, which is not the name of a model in "
                    f"{', '.join(HUB_NAMES)} and is not loaded by name; pass the model: "
                    f"`--model {visible(self.name)}`, load_head(path, model=…) or network(model)"
                )
            self.adopt(self.spec or self.name)
        assert self.model is not None
        return self.model

    def adopt(self, model: Any) -> None:
        """Take the model that was given, if its fingerprint is the one of this.

        Of several, as a list ``@models.txt`` has them, that of this name.
        """
        if model == self.name and self.spec and self.loads:
            model = self.spec
        if isinstance(model, str) and results_of(model) is None:
            found = candidates_of(model)
            named = [one for one in found if one.name == self.name]
            if len(found) > 1 and not named:
                raise InvalidInputError(
                    f"{model!r} has {len(found)} models, and none is called {self.name!r}, which "
                    f"the head was fitted on; give that one"
                )
            model = (named or found)[0].load()
        model = load_model(model)
        if model.fingerprint != self.fingerprint:
            raise IncompatibleStoreError(
                f"the head was fitted on {self.name!r} with fingerprint {self.fingerprint[:12]}…, "
                f"and {model.name!r} as it is now has {model.fingerprint[:12]}…; pass the model "
                f"with the weights and preprocessing of then as model="
            )
        if self.settings is not None and not self.settings.hold_in(model.module):
            raise IncompatibleStoreError(
                f"the head was fitted on {self.name!r} when its code, hooks or attributes were "
                f"others, though its weights are the same; pass the network as it was then as "
                f"model=, or fit the head again"
            )
        self.model = model


def check_store(store: FeatureStore, source: ModelRef | None, pool: str | None) -> None:
    """Refuse features of another model or another pooling."""
    manifest = store.manifest
    if source is not None and manifest["model_fingerprint"] != source.fingerprint:
        raise IncompatibleStoreError(
            f"the store holds features of {store.model!r}, and the head was fitted on "
            f"{source.name!r} with other weights or preprocessing; extract them with that model"
        )
    digest = manifest.get("settings")
    known = source.settings if source is not None else None
    if known is not None and digest is not None and digest != known.digest:
        raise IncompatibleStoreError(
            f"the store holds features of {store.model!r} with other code, hooks or attributes "
            f"than when the head was fitted; extract them with that network"
        )
    if pool is not None and manifest["pool"] != pool:
        raise IncompatibleStoreError(
            f"the store was pooled with {manifest['pool']!r}, and the head was fitted on {pool!r}; "
            f"extract with pool={pool!r}"
        )
