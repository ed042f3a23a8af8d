use ingot_compiler::pass::bucket::{of, run};
use ingot_compiler::{Options, TargetProfile};
use ingot_ir::size::Dims;
use ingot_tests::random;
use proptest::prelude::*;

#[test]
fn one_token_then_a_prefill_chunk() {
    insta::assert_debug_snapshot!(run(&TargetProfile::lavapipe(), 1, 256, None), @r"
    [
        Bucket {
            bounds: Dims {
                tokens: 1,
                sequences: 1,
                rows: 1,
                tiles: 1,
                filtered: 1,
            },
            all_rows: true,
            max_kv: 4294967295,
            max_parts: 1,
        },
        Bucket {
            bounds: Dims {
                tokens: 8,
                sequences: 1,
                rows: 8,
                tiles: 2,
                filtered: 8,
            },
            all_rows: false,
            max_kv: 4294967295,
            max_parts: 1,
        },
        Bucket {
            bounds: Dims {
                tokens: 64,
                sequences: 1,
                rows: 64,
                tiles: 5,
                filtered: 64,
            },
            all_rows: false,
            max_kv: 4294967295,
            max_parts: 1,
        },
    ]
    ");
}

#[test]
fn buckets_grow_and_hold_a_sequence_at_least() {
    for name in ["cpu", "vulkan", "lavapipe", "apple", "webgpu"] {
        let target = TargetProfile::preset(name).expect("a preset");
        let buckets = run(&target, 1, 256, None);
        assert!(buckets.windows(2).all(|pair| pair[0].bounds.fits(&pair[1].bounds)), "{name}");
        assert!(buckets[0].bounds.fits(&Dims { tokens: 1, sequences: 1, rows: 1, tiles: 1, filtered: 1 }), "{name}");
        assert!(!buckets[1].all_rows, "{name}: a chunk of a prompt wants its last row");
    }
}

proptest! {
    #![proptest_config(crate::support::cases(64))]
    /// A step of no more tokens, sequences and rows than a bucket's has no more tiles than its bound.
    #[test]
    fn tiles_of_a_step_that_fits_otherwise_fit(shape in random::batch_shape()) {
        for target in [TargetProfile::cpu(), TargetProfile { prefill_tokens: 16, prefill_q_tile: 4, ..TargetProfile::cpu() }] {
            for step in &shape.batch(1, 16, target.prefill_q_tile, 8).steps {
                let bounds = run(&target, 8, 256, None)[5].bounds;
                let dims = step.dims();
                if dims.tokens <= bounds.tokens && dims.sequences <= bounds.sequences {
                    prop_assert!(dims.tiles <= bounds.tiles, "{dims:?} in {bounds:?}");
                }
            }
        }
    }
}

/// With as many sequences as a chunk has tokens too: some of a chunk's have several.
#[test]
fn chunks_are_no_decoding() {
    for target in TargetProfile::presets() {
        for max_batch in [1, 16, 128] {
            for bucket in run(&target, max_batch, 256, None) {
                assert_eq!(bucket.is_decode(), bucket.all_rows, "{} {max_batch} {:?}", target.name, bucket.bounds);
            }
        }
    }
}

/// Of 4 experts, one a token, each has 8 products on average from 32 tokens on.
#[test]
fn a_mixture_has_a_chunk_whose_experts_have_few_products() {
    let tokens = |shape: &random::Shape, target: &TargetProfile| -> Vec<u32> {
        let buckets = of(&shape.graph(), target, Options::new(256));
        buckets.iter().filter(|bucket| !bucket.is_decode()).map(|bucket| bucket.bounds.tokens).collect()
    };
    let (dense, mixture) = (random::Shape::llama(), random::Shape { experts: Some((4, 1)), ..random::Shape::llama() });
    let vulkan = TargetProfile::vulkan();
    assert_eq!(tokens(&dense, &vulkan), [vulkan.few_rows(), vulkan.prefill_tokens]);
    assert_eq!(tokens(&mixture, &vulkan), [vulkan.few_rows(), 31, vulkan.prefill_tokens]);
    let nvidia = TargetProfile::nvidia();
    assert_eq!(
        tokens(&dense, &nvidia),
        [nvidia.rows_before_units(), 16, 32, nvidia.few_rows(), 256, nvidia.prefill_tokens]
    );
    // Below few rows too, where matrix units sort from fewer on.
    let (least, most) = (nvidia.rows_before_units(), nvidia.few_rows());
    assert_eq!(tokens(&mixture, &nvidia), [least, 16, 31, 32, most, 256, nvidia.prefill_tokens]);
    // Where few rows are more than that, and where the processor sorts, nothing is added.
    let plain = TargetProfile { limits: TargetProfile::vulkan().limits, ..TargetProfile::nvidia() };
    for target in [plain, TargetProfile::cpu()] {
        assert_eq!(tokens(&mixture, &target), tokens(&dense, &target), "{}", target.name);
    }
}
