//! Where it is remembered which flows have begun last. Pure.
//!
//! Every holder has a list of its own, which only its own beginnings go through. What falls out of that goes into one of two
//! that all share: one for what anybody can begin (from outside, or balanced packet by packet), one for the rest. What falls
//! out of the first of these and has still only begun is removed. So of all that anybody can begin no more than these lists
//! have places for is ever there, a part of each table; and a flood towards one holder leaves the others their own lists,
//! however quick it is.

use crate::{
    abi::{FLOWS, Flow, TRANSLATIONS},
    flow,
    limit::holder_of,
    packet::TCP,
};

/// The list that all share of flows from outside, and of those that are balanced packet by packet.
pub const OPEN: u32 = 0;
/// The list that all share of the other flows.
pub const INNER: u32 = 1;

/// Places of [`OPEN`]: a power of two, as of all lists.
pub const OPEN_PLACES: u32 = 8192;
/// Places of [`INNER`].
pub const INNER_PLACES: u32 = 4096;
/// How many lists there are for holders: accounts are given from the lowest on, so that instances share one only beyond
/// this number.
pub const OWN_LISTS: u32 = 128;
/// Places of each of them: as many connections may be half open at a time whatever happens to others.
pub const OWN_PLACES: u32 = 64;

/// All lists.
pub const LISTS: u32 = 2 + OWN_LISTS;
/// Places of all lists.
pub const PLACES: u32 = OPEN_PLACES + INNER_PLACES + OWN_LISTS * OWN_PLACES;

// What anybody can begin leaves others half of the smaller table.
const _: () = assert!(2 * (OPEN_PLACES + OWN_LISTS * OWN_PLACES) <= TRANSLATIONS && TRANSLATIONS <= FLOWS);

/// The first place of a list, and how many it has.
#[inline(always)]
pub const fn places(list: u32) -> (u32, u32) {
    match list {
        OPEN => (0, OPEN_PLACES),
        INNER => (OPEN_PLACES, INNER_PLACES),
        own => (OPEN_PLACES + INNER_PLACES + (own - 2) % OWN_LISTS * OWN_PLACES, OWN_PLACES),
    }
}

/// The list of the flow's holder.
#[inline(always)]
pub const fn own_list(flow: &Flow) -> u32 {
    2 + holder_of(flow) as u32 % OWN_LISTS
}

/// The list that the flow goes into from there.
#[inline(always)]
pub const fn shared_list(flow: &Flow) -> u32 {
    if flow.accounts[flow.origin as usize & 1] == 0 || !flow.vip.is_none() { OPEN } else { INNER }
}

/// What becomes of a flow whose place in [`OPEN`] is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is removed: it has only begun.
    Goes,
    /// Its place is taken: it is a connection, whose client has shown that it is there.
    Proven,
    /// It stays in its place: it is a conversation, but nobody has shown anything.
    Stays,
}

/// See [`Fate`].
#[inline(always)]
pub const fn fate(protocol: u8, flow: &Flow) -> Fate {
    if flow::has_only_begun(protocol, flow) {
        Fate::Goes
    } else if protocol == TCP {
        Fate::Proven
    } else {
        Fate::Stays
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        abi::Addr,
        flow::{CONVERSATION_NS, ESTABLISHED, FINISHED, OPENED, RESET, SENT},
        packet::UDP,
    };

    #[test]
    fn no_two_lists_have_a_place_in_common() {
        let mut taken = vec![false; PLACES as usize];
        for list in 0..LISTS {
            let (first, number) = places(list);
            assert!(number.is_power_of_two());
            for place in first..first + number {
                assert!(!std::mem::replace(&mut taken[place as usize], true), "{list}");
            }
        }
        assert!(taken.iter().all(|taken| *taken));
    }

    #[test]
    fn a_holder_has_its_list_and_who_may_begin_it_says_where_it_goes_from_there() {
        let vip = Addr { words_be: [0, 0, 1, 1] };
        for (name, accounts, origin, asked, own, shared) in [
            ("from outside", [0, 3], 0, Addr::default(), 5, OPEN),
            ("from outside, the other way round", [3, 0], 1, Addr::default(), 5, OPEN),
            ("to the outside", [3, 0], 0, Addr::default(), 5, INNER),
            ("between instances", [3, 4], 1, Addr::default(), 6, INNER),
            ("of an instance, balanced", [3, 4], 1, vip, 6, OPEN),
            ("of nobody", [0, 0], 0, Addr::default(), 2, OPEN),
            ("of one of very many", [130, 0], 0, Addr::default(), 4, INNER),
        ] {
            let flow = Flow { accounts, origin, vip: asked, ..Flow::default() };
            assert_eq!((own_list(&flow), shared_list(&flow)), (own, shared), "{name}");
        }
    }

    #[test]
    fn only_what_has_shown_nothing_goes() {
        let open = OPENED | SENT;
        for (name, protocol, seen, lasted, expected) in [
            ("a SYN", TCP, [open, 0], 0, Fate::Goes),
            ("answered", TCP, [open, SENT], 0, Fate::Goes),
            ("refused", TCP, [open, SENT | RESET | ESTABLISHED], 0, Fate::Goes),
            ("established", TCP, [open | ESTABLISHED, SENT | ESTABLISHED], 0, Fate::Proven),
            ("over", TCP, [open | ESTABLISHED | FINISHED, SENT | ESTABLISHED | FINISHED], 0, Fate::Proven),
            ("a question", UDP, [SENT, 0], CONVERSATION_NS, Fate::Goes),
            ("and its answer", UDP, [SENT, SENT], CONVERSATION_NS - 1, Fate::Goes),
            ("a conversation", UDP, [SENT, SENT], CONVERSATION_NS, Fate::Stays),
        ] {
            let flow = Flow { seen, first_ns: 5, last_ns: 5 + lasted, ..Flow::default() };
            assert_eq!(fate(protocol, &flow), expected, "{name}");
        }
    }
}
