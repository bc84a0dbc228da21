"""Typed, frozen configuration: sections with defaults and help, YAML in and out."""

from macejax.config.embedding import EmbeddingConfig
from macejax.config.model import ModelConfig, ModelSection, RadialTableConfig
from macejax.config.optimize import LossConfig, OptimizerConfig, RateFactors, ScheduleConfig
from macejax.config.precision import Precision, PrecisionName
from macejax.config.run import DataConfig, KeysConfig, RunConfig, StageTwoConfig, TrainConfig
from macejax.config.section import ConfigError, Section
from macejax.config.text import dump_config, in_a_sentence, load_config, load_model_section, parse_overrides, template

__all__ = [
    "ConfigError",
    "DataConfig",
    "EmbeddingConfig",
    "KeysConfig",
    "LossConfig",
    "ModelConfig",
    "ModelSection",
    "OptimizerConfig",
    "Precision",
    "PrecisionName",
    "RadialTableConfig",
    "RateFactors",
    "RunConfig",
    "ScheduleConfig",
    "Section",
    "StageTwoConfig",
    "TrainConfig",
    "dump_config",
    "in_a_sentence",
    "load_config",
    "load_model_section",
    "parse_overrides",
    "template",
]
