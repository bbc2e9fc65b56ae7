//! The table of cases.

mod answers;
mod description;
mod equality;
mod loading;
mod memory;
mod refusals;
mod rows;
mod sharing;

use crate::bench::{Bench, Outcome};

/// A case: works on the bench, and says what it found.
pub type Case = fn(&mut Bench<'_>) -> Outcome;

/// Every case, in the order in which they run: the cheap and telling ones first.
pub const ALL: &[(&str, Case)] = &[
    ("devices_are_sound", description::devices_are_sound),
    ("model_is_described", description::model_is_described),
    ("figures_are_readable", description::figures_are_readable),
    ("answers_are_right", answers::answers_are_right),
    ("prompts_are_told_apart", equality::prompts_are_told_apart),
    ("greedy_is_repeatable", equality::greedy_is_repeatable),
    ("second_request_equals_first", equality::second_request_equals_first),
    ("stale_cache_after_a_token_of_warmup", equality::stale_cache_after_a_token_of_warmup),
    ("warmup_leaves_no_trace", equality::warmup_leaves_no_trace),
    ("chunked_prefill_equals_one_shot", equality::chunked_prefill_equals_one_shot),
    ("batch_equals_alone", equality::batch_equals_alone),
    ("many_sequences_equal_alone", equality::many_sequences_equal_alone),
    ("fork_equals_recomputation", sharing::fork_equals_recomputation),
    ("truncate_equals_recomputation", sharing::truncate_equals_recomputation),
    ("drafts_equal_single_steps", sharing::drafts_equal_single_steps),
    ("wanted_rows_agree", rows::wanted_rows_agree),
    ("hidden_rows_agree", rows::hidden_rows_agree),
    ("best_tokens_agree_with_full_rows", rows::best_tokens_agree_with_full_rows),
    ("bias_and_masks_are_applied", rows::bias_and_masks_are_applied),
    ("ties_go_to_the_lowest_id", rows::ties_go_to_the_lowest_id),
    ("bad_batches_change_nothing", refusals::bad_batches_change_nothing),
    ("unsupported_is_said", refusals::unsupported_is_said),
    ("stale_handles_are_refused", refusals::stale_handles_are_refused),
    ("cancelled_is_atomic", refusals::cancelled_is_atomic),
    ("trim_leaves_no_trace", memory::trim_leaves_no_trace),
    ("context_overflow_is_atomic", memory::context_overflow_is_atomic),
    ("kv_full_is_atomic", memory::kv_full_is_atomic),
    ("reservations_are_whole", memory::reservations_are_whole),
    ("shared_forks_take_no_room", memory::shared_forks_take_no_room),
    ("free_returns_memory", memory::free_returns_memory),
    ("reload_equals_first", loading::reload_equals_first),
    ("another_thread_equals_first", loading::another_thread_equals_first),
    ("loads_are_cancelled", loading::loads_are_cancelled),
    ("bad_loads_are_refused", loading::bad_loads_are_refused),
    ("bad_files_are_refused", loading::bad_files_are_refused),
];
