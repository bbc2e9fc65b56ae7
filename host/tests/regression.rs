//! Defects of the systems that sconce replaces, by name. The same cases run against any plugin in
//! `sconce plugin test`; here they go through HTTP.

mod support;

use serde_json::json;
use support::Server;

/// A warm-up of one token, then a prompt of four, failed with `cannot broadcast [4, 4] to [1, 4, 4, 5]` or
/// gave wrong text: the cache still held the warm-up.
#[test]
fn a_one_token_request_leaves_nothing_behind() {
    let four = json!([2052, 687, 258, 504]);
    let fresh = Server::demo();
    let expected = fresh.greedy(four.clone(), 24);
    assert!(!expected.is_empty());

    let warm = Server::demo();
    warm.greedy(json!([4088]), 1);
    assert_eq!(warm.greedy(four.clone(), 24), expected, "after a request of one token");
    assert_eq!(warm.greedy(four.clone(), 24), expected, "the second time");
    warm.greedy("The wolf said", 7);
    assert_eq!(warm.greedy(four, 24), expected, "after another request");
}
