//! Token buckets, and who a flow is counted for. Pure.
//!
//! A bucket is one word: the time at which it will be full again (the generic cell rate algorithm, ITU-T I.371). A
//! packet passes unless the bucket is overdrawn, and moves that time on by what it costs: so the last packet before a
//! pause may overdraw it, and one that is larger than the bucket does not wait for ever. What is overdrawn is paid
//! before the next one passes, so that the rate holds over time whatever the sizes are.
//!
//! Where something waits for packets behind us (a queue `fq` at every way out of the node), the last part of a bucket is
//! a queue: what finds no more than that in it passes as well, but with a time of departure, the one at which it would
//! have found more. So who asks for what stays on the node and who asks for what leaves it find the same bucket, and are
//! refused at the same moment.
//!
//! Times are in sixteenths of a nanosecond and wrap after 36 years; differences are what is compared.

use crate::abi::{Flow, Rate};

/// Bit of [`Flow::counted`]: a connection of its ends.
pub const CONNECTION: u8 = 1;
/// Bit of [`Flow::counted`]: a row that somebody holds.
pub const HELD: u8 = 2;

/// Bits by which times are finer than nanoseconds.
const FINE: u32 = 4;
/// Bits by which prices are finer than times.
const FINER: u32 = 16;
const SECOND_NS: u64 = 1_000_000_000;

/// The most bytes that one packet can cost: twice what the kernel makes of the largest segment (BIG TCP, 512 KiB).
pub const MOST_BYTES: u32 = 1 << 20;
/// The most packets that one can be cut into, for what it costs.
pub const MOST_PACKETS: u32 = 4096;

/// The last part of a bucket that is a queue: for so long a packet waits at most. With what a way takes (RTT) it must stay
/// below the 200 ms after which TCP takes for lost what was not confirmed (Linux, TCP_RTO_MIN): it would send again what
/// only waits. A sender that looks at losses alone fills it, so this is also what its packets are late then.
pub const QUEUE_NS: u64 = 50_000_000;
/// Of what is not TCP no more wait than so many full Ethernet frames: `fq` keeps 100 packets of one flow at most (its
/// `flow_limit`) and drops the others, which have paid. TCP learns of that and sends less; others may not.
pub const QUEUE_FRAMES: u64 = 64;
/// Bytes of such a frame.
pub const FRAME: u64 = 1514;

/// Bit of the word that also says how many addresses other nodes have: every uplink keeps packets until their time of
/// departure.
pub const PACED: u32 = 1 << 31;

/// A time of the monotonic clock as buckets have it.
#[inline(always)]
pub const fn time(ns: u64) -> u64 {
    ns << FINE
}

/// The time of the monotonic clock, in nanoseconds.
#[inline(always)]
pub const fn nanoseconds(time: u64) -> u64 {
    time >> FINE
}

impl Rate {
    /// No limit.
    pub const NONE: Self = Self { price: 0, depth: 0 };

    /// So many (1 to 2^40) in a second. The bucket has what comes in `burst_ns`, and at least `least`.
    pub const fn per_second(number: u64, burst_ns: u64, least: u64) -> Self {
        let price = (SECOND_NS << (FINE + FINER)) / number;
        let (burst, least) = (time(burst_ns), Self { price, depth: 0 }.cost(least));
        Self { price, depth: if burst > least { burst } else { least } }
    }

    /// How many in a second, as near as the price says; none: there is no limit.
    pub const fn number(&self) -> Option<u64> {
        let second = SECOND_NS << (FINE + FINER);
        (second + self.price / 2).checked_div(self.price)
    }

    /// The time that so many take.
    #[inline(always)]
    pub const fn cost(&self, amount: u64) -> u64 {
        (amount * self.price) >> FINER
    }

    /// For how long the bucket is not full yet.
    #[inline(always)]
    const fn debt(&self, full_at: u64, now: u64) -> u64 {
        let ahead = full_at.wrapping_sub(now);
        if ahead >> 63 != 0 {
            return 0;
        }
        // So much no packet at this rate makes: it was another rate, or another clock.
        if ahead > self.depth + (self.price << FINE) { self.depth } else { ahead }
    }

    /// Whether nothing passes now.
    #[inline(always)]
    pub const fn is_overdrawn(&self, full_at: u64, now: u64) -> bool {
        self.price != 0 && self.debt(full_at, now) > self.depth
    }

    /// The part of the bucket that is a queue, for TCP or for other packets: see [`QUEUE_NS`], [`QUEUE_FRAMES`].
    /// `frame` is what a full frame costs: its bytes, or one packet.
    #[inline(always)]
    pub const fn queue(&self, tcp: bool, frame: u64) -> u64 {
        let (most, frames) = (time(QUEUE_NS), self.cost(QUEUE_FRAMES * frame));
        if tcp || frames > most { most } else { frames }
    }

    /// For how long a packet waits that passes now, if so much of the bucket is a queue.
    #[inline(always)]
    pub const fn wait(&self, full_at: u64, now: u64, queue: u64) -> u64 {
        if self.price == 0 {
            return 0;
        }
        let (debt, at_once) = (self.debt(full_at, now), self.depth.saturating_sub(queue));
        debt.saturating_sub(at_once)
    }

    /// When the bucket will be full after something that costs this.
    #[inline(always)]
    pub const fn after(&self, full_at: u64, now: u64, cost: u64) -> u64 {
        now.wrapping_add(self.debt(full_at, now)).wrapping_add(cost)
    }
}

/// The account for which a flow's row counts: that of the instance which began it, or which it was begun to if nobody of
/// this node did. 0: nobody's.
#[inline(always)]
pub const fn holder(accounts: [u16; 2], origin: u8) -> u16 {
    let [first, second] = accounts;
    let (began, other) = if origin & 1 == 0 { (first, second) } else { (second, first) };
    if began == 0 { other } else { began }
}

/// The holder of a flow's row.
#[inline(always)]
pub const fn holder_of(flow: &Flow) -> u16 {
    holder(flow.accounts, flow.origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// How many of `size` pass at times of `step_ns` for `ns` from `start_ns` on.
    fn passed(rate: Rate, full_at: &mut u64, start_ns: u64, ns: u64, step_ns: u64, size: u64) -> u64 {
        let mut passed = 0;
        let mut at = 0;
        while at < ns {
            let now = time(start_ns.wrapping_add(at));
            if !rate.is_overdrawn(*full_at, now) {
                *full_at = rate.after(*full_at, now, rate.cost(size));
                passed += 1;
            }
            at += step_ns;
        }
        passed
    }

    #[test]
    fn a_full_bucket_lasts_for_its_burst_and_fills_at_its_rate() {
        let rate = Rate::per_second(1_000_000, 100 * MS, 0);
        let (mut full_at, start) = (0, 3600 * SECOND_NS);
        // 100 ms are 100,000 bytes; the last one may overdraw it.
        let now = time(start);
        let mut burst = 0;
        while !rate.is_overdrawn(full_at, now) {
            full_at = rate.after(full_at, now, rate.cost(1000));
            burst += 1;
        }
        assert_eq!(burst, 101);
        // It is overdrawn by one packet, which takes a millisecond.
        assert!(rate.is_overdrawn(full_at, time(start + MS - 1)));
        assert!(!rate.is_overdrawn(full_at, time(start + MS)));
        // Long after it is as full as at first, and no fuller.
        assert_eq!(passed(rate, &mut full_at, start + 3600 * SECOND_NS, 1, 1, 1000), 1);
        assert_eq!(full_at, time(start + 3600 * SECOND_NS) + rate.cost(1000));
    }

    #[test]
    fn the_rate_holds_over_time_whatever_sizes_are() {
        for per_second in [1_000, 125_000, 1_250_000, 125_000_000, 12_500_000_000_u64] {
            for size in [60, 1514, 65_536, u64::from(MOST_BYTES)] {
                let rate = Rate::per_second(per_second, 100 * MS, 131_072);
                let seconds = 1 + 20 * size / per_second;
                let (mut full_at, step) = (0, (SECOND_NS * size / per_second / 3).max(1));
                let (start, ns) = (77 * SECOND_NS, (seconds * SECOND_NS).min(step * 100_000));
                // Empty it first.
                while !rate.is_overdrawn(full_at, time(start)) {
                    full_at = rate.after(full_at, time(start), rate.cost(size));
                }
                let bytes = passed(rate, &mut full_at, start, ns, step, size) * size;
                let wanted = u128::from(per_second) * u128::from(ns) / u128::from(SECOND_NS);
                let most = wanted + wanted / 50 + u128::from(size);
                let least = (wanted - wanted / 50).saturating_sub(2 * u128::from(size));
                assert!((least..=most).contains(&bytes.into()), "{per_second}, {size}: {bytes}, not {wanted}");
            }
        }
    }

    #[test]
    fn times_wrap_and_a_clock_that_jumps_stops_nobody() {
        let rate = Rate::per_second(1_000_000, 100 * MS, 0);
        // Across the end of the numbers.
        let start = (u64::MAX >> FINE) - 50 * MS;
        let mut full_at = time(start);
        let all = passed(rate, &mut full_at, start, 1_000 * MS, MS / 10, 1000);
        assert!((1_099..=1_102).contains(&all), "{all}");
        // A time that no packet at this rate can have made is as good as an empty bucket: the next packet passes.
        for far in [3600 * SECOND_NS, 1 << 58] {
            let now = time(77 * SECOND_NS);
            let full_at = now + time(far);
            assert!(!rate.is_overdrawn(full_at, now), "{far}");
            let next = rate.after(full_at, now, rate.cost(1000));
            assert_eq!(next, now + rate.depth + rate.cost(1000));
            assert!(rate.is_overdrawn(next, now));
        }
        // The clock of this CPU may be a little behind.
        let now = time(77 * SECOND_NS);
        assert!(!rate.is_overdrawn(now + time(4 * MS), now));
    }

    #[test]
    fn the_last_part_of_a_bucket_is_a_queue_that_empties_at_the_rate() {
        for (per_second, size, tcp) in [(2_500_000, 1_514, true), (125_000_000, 65_226, true), (2_500_000, 200, false)]
        {
            let rate = Rate::per_second(per_second, 250 * MS, 131_072);
            let queue = rate.queue(tcp, FRAME);
            let (mut full_at, now) = (0, time(77 * SECOND_NS));
            let (mut last, mut waited, mut at_once) = (0, 0_u64, 0_u64);
            while !rate.is_overdrawn(full_at, now) {
                let wait = rate.wait(full_at, now, queue);
                if wait == 0 {
                    at_once += size;
                } else {
                    // One after the other, as far apart as the rate has it.
                    assert!(wait <= queue && (waited == 0 || wait == last + rate.cost(size)), "{per_second}: {wait}");
                    (last, waited) = (wait, waited + 1);
                }
                full_at = rate.after(full_at, now, rate.cost(size));
            }
            // The rest of the bucket goes at once, and as much waits as fits into the queue.
            assert!(at_once.abs_diff((rate.depth - queue) / rate.cost(1)) <= 2 * size, "{per_second}: {at_once}");
            assert!(waited.abs_diff(queue / rate.cost(size)) <= 1, "{per_second}: {waited}");
            // What waits departs when it would have found more, whenever it came.
            let (earlier, later) = (rate.wait(full_at, now, queue), rate.wait(full_at, now + time(MS), queue));
            assert_eq!(now + earlier, now + time(MS) + later);
        }
        assert_eq!(Rate::NONE.wait(u64::MAX, 0, 0), 0);
    }

    #[test]
    fn a_queue_is_short_and_of_datagrams_holds_fewer_than_fq_keeps() {
        for (number, frame, tcp, udp_ns) in [
            (1_000, FRAME, 50 * MS, 50 * MS),
            (1_250_000, FRAME, 50 * MS, 50 * MS),
            (12_500_000, FRAME, 50 * MS, 7_751_680),
            (125_000_000, FRAME, 50 * MS, 775_168),
            (1 << 37, FRAME, 50 * MS, 705),
            (10_000, 1, 50 * MS, 6_400_000),
            (1, 1, 50 * MS, 50 * MS),
        ] {
            let rate = Rate::per_second(number, 250 * MS, if frame == 1 { 90 } else { 131_072 });
            assert_eq!(rate.queue(true, frame), time(tcp), "{number}");
            let queue = nanoseconds(rate.queue(false, frame));
            assert!(queue.abs_diff(udp_ns) <= 1 + udp_ns / 1_000, "{number}: {queue}, not {udp_ns}");
            assert!(rate.queue(true, frame) < rate.depth);
        }
    }

    #[test]
    fn the_slowest_rate_and_the_largest_packet_do_not_overflow() {
        for (number, least, most) in [(1_000, 131_072, MOST_BYTES), (1, 64, MOST_PACKETS)] {
            let rate = Rate::per_second(number, 100 * MS, least);
            let cost = rate.cost(most.into());
            assert_eq!(cost, time(u64::from(most) * SECOND_NS / number));
            assert!(rate.is_overdrawn(rate.after(0, 0, cost), 0));
        }
        assert!(!Rate::NONE.is_overdrawn(u64::MAX, 0));
    }

    #[test]
    fn a_row_counts_for_who_began_it_if_that_is_an_instance_of_the_node() {
        assert_eq!((holder([3, 4], 0), holder([3, 4], 1)), (3, 4));
        assert_eq!((holder([0, 4], 0), holder([3, 0], 1), holder([0, 0], 0)), (4, 3, 0));
    }
}
