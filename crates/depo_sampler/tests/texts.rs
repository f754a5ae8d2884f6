//! Texts in buffers: whatever the buffers hold, the check agrees with a slow look at each text.

use depo_sampler::texts::{Answers, Offsets, Texts, prompt_ids};
use proptest::prelude::*;

/// The first row whose offsets do not delimit a valid text.
fn first_fault(utf8: &[u8], offsets: &[i64]) -> Option<usize> {
    let is_text = |pair: &[i64]| {
        let bounds = usize::try_from(pair[0]).ok().zip(usize::try_from(pair[1]).ok());
        bounds
            .and_then(|(start, end)| utf8.get(start..end))
            .is_some_and(|bytes| std::str::from_utf8(bytes).is_ok())
    };
    offsets.windows(2).position(|pair| !is_text(pair))
}

fn buffers() -> impl Strategy<Value = (Vec<u8>, Vec<i64>)> {
    let bytes = prop_oneof![any::<Vec<u8>>(), "[aé😀\"]{0,12}".prop_map(String::into_bytes)];
    bytes.prop_flat_map(|utf8| {
        let len = utf8.len() as i64;
        let offsets = prop_oneof![
            prop::collection::vec(0..=len, 1..8).prop_map(|mut offsets| {
                offsets.sort_unstable();
                offsets
            }),
            prop::collection::vec(-2..=len + 2, 0..5),
        ];
        (Just(utf8), offsets)
    })
}

proptest! {
    #[test]
    fn the_check_passes_what_a_look_at_each_text_passes(
        (utf8, offsets) in buffers(),
        first_row in 0..1000_usize,
    ) {
        let narrow: Vec<i32> = offsets.iter().map(|&offset| offset as i32).collect();
        for texts in [
            Texts::new(&utf8, Offsets::Wide(&offsets)),
            Texts::new(&utf8, Offsets::Narrow(&narrow)),
        ] {
            let checked = texts.check(first_row);
            prop_assert_eq!(
                checked.is_ok(),
                !offsets.is_empty() && first_fault(&utf8, &offsets).is_none()
            );
            if let Err(error) = checked && !offsets.is_empty() {
                // All offsets are looked at before the first byte is.
                let delimited = |pair: &[i64]| {
                    0 <= pair[0] && pair[0] <= pair[1] && pair[1] <= utf8.len() as i64
                };
                let row = offsets
                    .windows(2)
                    .position(|pair| !delimited(pair))
                    .or(first_fault(&utf8, &offsets));
                let named = format!("at row {}", first_row + row.unwrap_or_default());
                prop_assert!(error.to_string().contains(&named), "{error} does not say {named}");
            }
        }
    }

    #[test]
    fn buffers_that_change_later_are_never_left((utf8, offsets) in buffers()) {
        let texts = Texts::new(&utf8, Offsets::Wide(&offsets));
        let read: Vec<&[u8]> = texts.iter().collect();
        prop_assert_eq!(read.len(), texts.len());
    }
}

#[test]
fn ids_need_a_source_and_an_answer_for_each_text() {
    let texts = [Texts::new(b"ab", Offsets::Narrow(&[0, 1, 2]))];
    let ids = |answers: &[Texts], sources: &[u32]| {
        let answers = (!answers.is_empty()).then_some(Answers { texts: answers, are_json: false });
        prompt_ids(&texts, answers, sources, &["math".into()]).map_err(|error| error.to_string())
    };
    assert!(ids(&[], &[0, 0]).is_ok_and(|ids| ids[0] != ids[1]));
    assert_eq!(ids(&[], &[0]), Err("sources: got length 1, expected length 2, as texts".into()));
    assert_eq!(
        ids(&[], &[0, 1]),
        Err("sources: got index 1 at position 1, expected an index within 0..1".into())
    );
    let one = [Texts::new(b"a", Offsets::Narrow(&[0, 1]))];
    assert_eq!(
        ids(&one, &[0, 0]),
        Err("answers: got length 1, expected length 2, as texts".into())
    );
}
