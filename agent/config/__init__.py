"""Every option: name, unit, default, bound and meaning. Read from files and environment by `source`.

One module a section. `docs/configuration.md` is generated from these structs, so a description here is
user documentation.
"""

from agent.config.aggregate import Aggregate
from agent.config.budget import Budget
from agent.config.connection import Sasl, Tls
from agent.config.decoding import Decode, Fields
from agent.config.delivery import Delivery
from agent.config.export import Export, Otlp, Traces
from agent.config.judge import Baseline, Judge
from agent.config.kafka import Kafka
from agent.config.models import Feature, Model
from agent.config.monitors import Monitor
from agent.config.options import Fraction, Options, Port, Seconds, Secret, Threads
from agent.config.overload import Overload
from agent.config.privacy import Privacy, Values
from agent.config.process import Log, Runtime, ServerTls, Service, Web
from agent.config.respond import Action, Alertmanager, KafkaTopic, Respond, Webhook
from agent.config.root import Config
from agent.config.sources import Source
from agent.config.windows import Windows

__all__ = [
    "Action",
    "Aggregate",
    "Alertmanager",
    "Baseline",
    "Budget",
    "Config",
    "Decode",
    "Delivery",
    "Export",
    "Feature",
    "Fields",
    "Fraction",
    "Judge",
    "Kafka",
    "KafkaTopic",
    "Log",
    "Model",
    "Monitor",
    "Options",
    "Otlp",
    "Overload",
    "Port",
    "Privacy",
    "Respond",
    "Runtime",
    "Sasl",
    "Seconds",
    "Secret",
    "ServerTls",
    "Service",
    "Source",
    "Threads",
    "Tls",
    "Traces",
    "Values",
    "Web",
    "Webhook",
    "Windows",
]
