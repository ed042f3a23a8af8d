//! The ragged batch contract.

use ingot_ir::kv::Window;
use ingot_ir::size::Dims;
use ingot_ir::step::{Choice, HEADER_WORDS, SAMPLED, StepTables, StepView, max_block_words};
use ingot_tests::random::{self, Batch};
use proptest::prelude::*;

fn batch() -> impl Strategy<Value = Batch> {
    (random::batch_shape(), 1usize..3, 1u32..5).prop_map(|(shape, groups, q_tile)| shape.batch(groups, 4, q_tile, 32))
}

/// Two sequences, one of three tokens after two, one new token each of one group.
fn two() -> StepTables {
    let mut step = StepTables::default();
    step.push_sequence([5, 6, 7], 2, 1);
    step.push_sequence([SAMPLED], 9, 0);
    step.rows = vec![2, 3];
    step.slots = vec![10, 11, 12, 3];
    step.tile(2, 1);
    step
}

#[test]
fn the_block_is_as_documented() {
    let mut words = Vec::new();
    two().write(&mut words);
    let lines: Vec<String> = words.chunks(8).map(|words| format!("{words:?}")).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    [4, 2, 2, 3, 16, 32, 40, 42]
    [54, 54, 0, 0, 0, 0, 0, 0]
    [5, 2, 0, 0, 6, 3, 0, 0]
    [7, 4, 0, 0, 2147483648, 9, 1, 0]
    [0, 3, 5, 1, 3, 1, 10, 0]
    [2, 3, 0, 0, 0, 1, 0, 1]
    [0, 1, 1, 0, 0, 1, 10, 11]
    [12, 3]
    ");
}

#[test]
fn what_the_verifier_says() {
    two().verify(1, &[16]).expect("it is right");
    let say = |change: fn(&mut StepTables)| {
        let mut step = two();
        change(&mut step);
        step.verify(1, &[16]).expect_err("a rule is broken")
    };
    let said = [
        say(|s| s.sequences[1].q_start = 2),
        say(|s| s.sequences[0].q_len = 0),
        say(|s| s.sequences[0].kv_len = 2),
        say(|s| s.sequences[1].q_len = 2),
        say(|s| s.tokens[1].position = 9),
        say(|s| s.tokens[1].sequence = 1),
        say(|s| {
            s.sequences.pop();
        }),
        say(|s| s.rows[1] = 4),
        say(|s| s.rows[1] = 2),
        say(|s| {
            s.slots.pop();
        }),
        say(|s| s.slots[0] = 16),
        say(|s| s.tiles[0].sequence = 2),
        say(|s| s.tiles[0].kv_split = 1),
        say(|s| s.choose(2, Choice::default())),
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    sequence 1: Sequence { q_start: 2, q_len: 1, kv_len: 10, page_row: 0 } does not continue at token 3
    sequence 0: Sequence { q_start: 0, q_len: 0, kv_len: 5, page_row: 1 } does not continue at token 0
    sequence 0: Sequence { q_start: 0, q_len: 3, kv_len: 2, page_row: 1 } does not continue at token 0
    token 3: Token { id: 2147483648, position: 9, sequence: 1, reserved: 0 } is not token 0 of Sequence { q_start: 3, q_len: 2, kv_len: 10, page_row: 0 }
    token 1: Token { id: 6, position: 9, sequence: 0, reserved: 0 } is not token 1 of Sequence { q_start: 0, q_len: 3, kv_len: 5, page_row: 1 }
    token 1: Token { id: 6, position: 3, sequence: 1, reserved: 0 } is not token 1 of Sequence { q_start: 0, q_len: 3, kv_len: 5, page_row: 1 }
    4 tokens but sequences cover 3
    rows are not ascending token indexes
    rows are not ascending token indexes
    3 slots for 1 groups and 4 tokens
    KV slot 16 of group 0 is past its 16 slots
    a tile names no sequence of the step, or a part beyond its parts
    a tile names no sequence of the step, or a part beyond its parts
    3 choices for 2 rows
    ");
}

#[test]
fn a_block_that_is_none_is_not_read() {
    let mut words = Vec::new();
    two().write(&mut words);
    assert!(StepView::read(&words[..HEADER_WORDS - 1]).is_none());
    for (word, value) in [(0, u32::MAX), (1, 1 << 30), (4, u32::MAX), (5, 1 << 20), (6, 999), (7, 999), (8, 999)] {
        let mut broken = words.clone();
        broken[word] = value;
        assert!(StepView::read(&broken).is_none(), "word {word}");
    }
}

/// Rows that filter are looked at up to the last of them; those before it that do not cost a glance.
#[test]
fn steps_know_how_far_rows_filter() {
    let mut step = two();
    assert_eq!(step.dims().filtered, 0);
    step.choose(1, Choice::default());
    assert_eq!((step.choices.len(), step.dims().filtered), (2, 0));
    step.choose(0, Choice { flags: Choice::FILTERS, ..Choice::default() });
    assert_eq!(step.dims().filtered, 1);
    step.choose(1, Choice { flags: Choice::FILTERS | Choice::TELLS, ..Choice::default() });
    assert_eq!(step.dims().filtered, 2);
}

#[test]
fn a_window_keeps_its_first_positions() {
    let window = Window { window: 3, keep: 2 };
    let seen: Vec<u32> = (0..10).filter(|&j| window.sees(7, j)).collect();
    assert_eq!(seen, [0, 1, 5, 6, 7]);
    assert!((0..8).all(|j| Window::FULL.sees(7, j)) && !Window::FULL.sees(7, 8));
}

proptest! {
    #![proptest_config(crate::support::cases(128))]

    #[test]
    fn a_block_reads_back(batch in batch()) {
        let mut words = vec![7; 3];
        for step in &batch.steps {
            let mut step = step.clone();
            let n_choices = step.rows.len() / 2;
            for row in (0..n_choices as u32).rev() {
                step.choose(row, Choice { position: row, ..Choice::default() });
            }
            step.verify(batch.page_tables.len(), &batch.n_slots()).map_err(TestCaseError::fail)?;
            step.write(&mut words);
            let view = StepView::read(&words).expect("a block");
            prop_assert_eq!(view.tokens, &step.tokens[..]);
            prop_assert_eq!(view.sequences, &step.sequences[..]);
            prop_assert_eq!(view.rows, &step.rows[..]);
            prop_assert_eq!(view.tiles, &step.tiles[..]);
            prop_assert_eq!(view.slots, &step.slots[..]);
            prop_assert_eq!(view.choices, &step.choices[..]);
            for group in 0..batch.page_tables.len() {
                prop_assert_eq!(view.group_slots(group).len(), step.tokens.len());
            }
            // There is room for a choice a row.
            let room = Choice::WORDS * (step.rows.len() - n_choices);
            prop_assert_eq!(words.len() + room, max_block_words(&step.dims(), batch.page_tables.len()));
        }
    }

    /// Every token is a query of exactly one tile, and tiles come in the order of sequences.
    #[test]
    fn tiles_cover_the_tokens_once(batch in batch(), q_tile in 1u32..6) {
        for mut step in batch.steps {
            step.tile(q_tile, 1);
            let mut tokens = Vec::new();
            for tile in &step.tiles {
                let sequence = &step.sequences[tile.sequence as usize];
                let first = tile.q_tile * q_tile;
                prop_assert!(first < sequence.q_len);
                tokens.extend((first..sequence.q_len.min(first + q_tile)).map(|i| sequence.q_start + i));
            }
            let all: Vec<u32> = (0..step.tokens.len() as u32).collect();
            prop_assert_eq!(tokens, all);
        }
    }

    /// Slots follow the page tables, and no two tokens of a batch ever share one.
    #[test]
    fn no_two_tokens_share_a_slot(batch in batch()) {
        let mut taken = std::collections::BTreeSet::new();
        for step in &batch.steps {
            for (group, table) in batch.page_tables.iter().enumerate() {
                for (ix, token) in step.tokens.iter().enumerate() {
                    let slot = step.slots[group * step.tokens.len() + ix];
                    let row = step.sequences[token.sequence as usize].page_row;
                    let page = table[(row * batch.max_pages + token.position / batch.page_tokens) as usize];
                    prop_assert_eq!(slot, page * batch.page_tokens + token.position % batch.page_tokens);
                    prop_assert!(taken.insert((group, slot)), "slot {} of group {} is written twice", slot, group);
                }
            }
        }
    }

    /// A change of one word of a step that the contract speaks of is found.
    #[test]
    fn a_changed_word_is_found(batch in batch(), at in any::<prop::sample::Index>(), by in 1u32..5, what in 0u8..6) {
        if batch.steps.is_empty() {
            return Ok(());
        }
        let mut step = batch.steps[at.index(batch.steps.len())].clone();
        let (token, sequence) = (at.index(step.tokens.len()), at.index(step.sequences.len()));
        match what {
            0 => step.tokens[token].position += by,
            1 => step.tokens[token].sequence += by,
            2 => step.sequences[sequence].q_start += by,
            3 => step.sequences[sequence].q_len += by,
            4 => step.sequences[sequence].kv_len += by,
            _ => step.slots[token] = batch.n_slots()[0] + by,
        }
        prop_assert!(step.verify(batch.page_tables.len(), &batch.n_slots()).is_err());
    }
}

#[test]
fn sizes_are_compared_one_by_one() {
    let bounds = Dims { tokens: 4, sequences: 2, rows: 1, tiles: 4, filtered: 1 };
    assert!(Dims { tokens: 4, sequences: 1, rows: 1, tiles: 1, filtered: 1 }.fits(&bounds));
    assert!(!Dims { tokens: 1, sequences: 3, rows: 1, tiles: 1, filtered: 1 }.fits(&bounds));
}
