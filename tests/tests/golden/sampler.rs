//! The sampler's fixtures on an adapter: what mlx-lm adjusts, keeps and leaves out.

use crate::support;
use ingot_runtime::sample::{Penalty, Random, Sampling, gumbel};
use ingot_tests::rig::{gpus, turn};
use ingot_tests::sampling::{Ask, SamplingRig};
use ingot_tests::shared::{root, skip};
