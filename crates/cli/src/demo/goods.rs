//! What the shop sells, and what its services say of it.

use serde_json::{Value, json};

/// What is there to buy: name, price in cents, and what its picture on the page is called.
const GOODS: [(&str, u32, &str); 8] = [
    ("Brass compass", 8_900, "compass"),
    ("Storm lantern", 4_650, "lantern"),
    ("Ship's bell", 12_400, "bell"),
    ("Hemp rope, 20 m", 3_200, "rope"),
    ("Enamel mug", 1_450, "mug"),
    ("Signal flags", 5_800, "flag"),
    ("Barometer", 15_900, "glass"),
    ("North Sea chart", 2_750, "chart"),
];

/// What a visitor may like: other things for each.
pub(super) fn for_visitor(visitor: u64) -> Value {
    // Any step that has no divisor in common with the number of goods picks four that differ.
    let first = visitor % GOODS.len() as u64;
    let picked = (0..PICKED).map(|n| good(first + 3 * n));
    json!({ "title": "Picked for you", "items": picked.collect::<Vec<_>>() })
}

/// What everybody likes.
pub(super) fn popular() -> Value {
    json!({ "title": "Popular with everybody", "items": [good(4), good(3), good(1), good(0)] })
}

/// A department's price list. Its items stand in another order in each.
pub(super) fn prices(department: u64) -> Value {
    json!({ "department": department, "items": (0..LISTED).map(|n| good(department + n)).collect::<Vec<_>>() })
}

fn good(number: u64) -> Value {
    let (name, cents, drawing) = GOODS[usize::try_from(number % GOODS.len() as u64).unwrap_or(0)];
    json!({ "name": name, "cents": cents, "drawing": drawing })
}

/// A row on the page.
const PICKED: u64 = 4;
/// As many as fit beside what stands next to the list.
const LISTED: u64 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_visitor_is_shown_four_different_goods() {
        for visitor in 0..20 {
            let answer = for_visitor(visitor);
            let mut names: Vec<&str> = answer["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["name"].as_str().unwrap())
                .collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), 4, "{answer}");
        }
        assert_ne!(for_visitor(0), for_visitor(1));
    }
}
