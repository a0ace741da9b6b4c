//! Global functions: those that the verifier looks at by themselves, once in a
//! program, knowing of their arguments nothing but the types. A static function it
//! follows anew from each call, in each state that there is before it.
//!
//! Global is what has a symbol of its own; the types of the arguments are in its
//! BTF. A `struct __sk_buff` is the program's context, an array is memory of that
//! size, which may be null, and nothing in it is a pointer. What is returned is a
//! number.

use aya_ebpf::bindings::__sk_buff;
use netbpf_common::{EndpointId, PortOwner};
use netbpf_ebpf::{
    Stop,
    flow::NewFlow,
    ports::{self, Claim},
    prepare,
    rare::{Decided, Rare, Step},
    seam::{InsertError, Seam},
};

use super::{
    env::Kernel,
    maps::{self, KernelMaps, RarePlace},
    skb::Frame,
};

type KernelSeam = Seam<Frame, KernelMaps, Kernel>;

#[inline(always)]
fn seam(skb: *mut __sk_buff) -> KernelSeam {
    Seam { skb: Frame::of(skb), tables: KernelMaps, env: Kernel(skb) }
}

macro_rules! steps {
    ($($name:ident: $step:ident;)*) => {
        $(
            #[doc = concat!("[`Step::", stringify!($step), "`].")]
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name(skb: *mut __sk_buff, id: u32, place: *mut RarePlace) -> u32 {
                // SAFETY: `take_step` passes the place, which nobody else uses until the
                // step is taken.
                match unsafe { maps::rare_again(place) } {
                    Some(rare) => Step::$step.take(&mut seam(skb), EndpointId(id as u16), rare).index(),
                    None => EndpointId::NONE.index(),
                }
            }
        )*

        /// [`Step::take`].
        #[inline(always)]
        pub(crate) fn take_step(step: Step, skb: *mut __sk_buff, id: EndpointId, rare: &mut Rare) -> EndpointId {
            let place = (&raw mut *rare).cast();
            let id = match step {
                $(Step::$step => $name(skb, id.index(), place),)*
            };
            EndpointId(id as u16)
        }
    };
}

steps! {
    outward: Outward;
    outward_by_flow: OutwardByFlow;
    outward_way: OutwardWay;
    outward_open: OutwardOpen;
    outward_stack: OutwardStack;
    inward: Inward;
    inward_by_flow: InwardByFlow;
    inward_open: InwardOpen;
    inward_by_stack: InwardByStack;
    stack: Stack;
    stack_by_flow: StackByFlow;
    stack_open: StackOpen;
    finish: Finish;
}

/// The room for a [`Decided`].
type DecidedPlace = [u32; 3];

const _: () = assert!(size_of::<Decided>() == size_of::<DecidedPlace>());
const _: () = assert!(align_of::<Decided>() <= align_of::<DecidedPlace>());

/// Puts a decision down where the caller wants it.
///
/// # Safety
/// `place` is null, or where a [`Decided`] may be written.
#[inline(always)]
unsafe fn put(place: *mut DecidedPlace, done: Result<(), Stop>) {
    // SAFETY: what the caller vouches for.
    if let Some(place) = unsafe { place.cast::<Decided>().as_mut() } {
        *place = Decided::so_far(done);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn prepare_out(
    skb: *mut __sk_buff,
    id: u32,
    has_flow: u32,
    place: *mut DecidedPlace,
) -> u32 {
    let done = prepare::outward(&mut seam(skb), EndpointId(id as u16), has_flow != 0);
    // SAFETY: `prepare_outward` passes the place of a `Decided`.
    unsafe { put(place, done) };
    id
}

/// [`prepare::outward`].
#[inline(always)]
pub(crate) fn prepare_outward(skb: *mut __sk_buff, id: EndpointId, has_flow: bool) -> Decided {
    let mut decided = Decided::so_far(Ok(()));
    prepare_out(skb, id.index(), u32::from(has_flow), (&raw mut decided).cast());
    decided
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn prepare_in(skb: *mut __sk_buff, id: u32, place: *mut DecidedPlace) -> u32 {
    let mut id = EndpointId(id as u16);
    let done = prepare::inward(&mut seam(skb), &mut id);
    // SAFETY: `prepare_inward` passes the place of a `Decided`.
    unsafe { put(place, done) };
    id.index()
}

/// [`prepare::inward`].
#[inline(always)]
pub(crate) fn prepare_inward(skb: *mut __sk_buff, id: &mut EndpointId) -> Result<(), Stop> {
    let mut decided = Decided::so_far(Ok(()));
    *id = EndpointId(prepare_in(skb, id.index(), (&raw mut decided).cast()) as u16);
    decided.done()
}

/// The room for a [`NewFlow`].
type NewFlowPlace = [u32; size_of::<NewFlow>() / size_of::<u32>()];

const _: () = assert!(size_of::<NewFlow>() == size_of::<NewFlowPlace>());

const TAKEN: u32 = 0;
const NOT_FREE: u32 = 1;
const FULL: u32 = 2;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_port(
    skb: *mut __sk_buff,
    flow: *mut NewFlowPlace,
    owner: u64,
    claim: u32,
) -> u32 {
    // SAFETY: `try_port` passes a pointer to one, which nobody else uses meanwhile.
    let Some(flow) = (unsafe { flow.cast::<NewFlow>().as_mut() }) else {
        return FULL;
    };
    match ports::try_port(&mut seam(skb), flow, PortOwner(owner), Claim::of(claim)) {
        Ok(()) => TAKEN,
        Err(InsertError::Exists) => NOT_FREE,
        Err(InsertError::Full) => FULL,
    }
}

/// [`ports::try_port`].
#[inline(always)]
pub(crate) fn try_port(
    skb: *mut __sk_buff,
    flow: &mut NewFlow,
    owner: PortOwner,
    claim: Claim,
) -> Result<(), InsertError> {
    match take_port(skb, (&raw mut *flow).cast(), owner.0, claim as u32) {
        TAKEN => Ok(()),
        NOT_FREE => Err(InsertError::Exists),
        _ => Err(InsertError::Full),
    }
}
