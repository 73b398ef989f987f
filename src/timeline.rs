//! placeholder, replaced at merge
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Received,
    DeviceFound,
    DeviceSkipped,
    Held,
    PushSent,
    PushAccepted,
    PushRefused,
    PushRetried,
    Registered,
    Forwarded,
    Ringing,
    Answered,
    Rejected,
    Cancelled,
    NoReturn,
    Expired,
    Failed,
    Missed,
    MissedReported,
}
