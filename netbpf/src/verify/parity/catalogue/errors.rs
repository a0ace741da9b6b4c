//! ICMP errors.

use super::{
    super::{
        packet::flag,
        scenario::{Answer, IcmpError, Step},
        script::Script,
        stage::{OUTSIDE, Place},
    },
    Towards, inward, out,
};

/// Types and codes of errors, and how much they quote.
const ERRORS: [(u8, u8, usize); 7] =
    [(3, 3, 8), (3, 1, 64), (3, 13, usize::MAX), (11, 0, 8), (12, 0, 28), (4, 0, 8), (3, 4, 8)];

pub(super) fn errors(s: &mut Script, towards: Towards) {
    let way = towards(s);
    let data = s.data(100);
    s.udp(way, &data);
    let Some(to) = way.to else { return };
    for (kind, code, quote) in ERRORS {
        s.error(to, kind, code, quote);
    }
    // And in the other direction, about the answer.
    s.answer(to, Answer::Udp(data));
    for (kind, code, quote) in ERRORS {
        s.error(way.from, kind, code, quote);
    }
}

pub(super) fn errors_about_a_segment(s: &mut Script) {
    for way in [out(s), inward(s)] {
        s.tcp(way, flag::SYN, 99_000_000, 0, &[]);
        let Some(to) = way.to else { continue };
        for (kind, code, quote) in ERRORS {
            s.error(to, kind, code, quote);
        }
    }
}

pub(super) fn errors_about_an_echo(s: &mut Script) {
    let way = out(s);
    let data = s.data(100);
    s.ping(way, &data);
    for (kind, code, quote) in ERRORS {
        s.error(Place::Outside, kind, code, quote);
    }
}

pub(super) fn error_from_a_router(s: &mut Script) {
    let way = out(s);
    let data = s.data(100);
    s.udp(way, &data);
    for by in [OUTSIDE, s.far_answered()] {
        let error = IcmpError { by: Some(by), kind: 11, code: 0, rest: [0; 4], quote: 8 };
        s.step(Step::error(Place::Outside, error));
    }
}
