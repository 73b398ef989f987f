//! One connection, whatever carries its bytes: framing what comes, writing what is queued, and its end.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

use super::admission::Admitted;
use super::connections::Shared;
use super::drops::DropReason;
use super::{Event, Inbound, SendError};
use crate::sip::flow::Flow;
use crate::sip::framing::{Frame, Framer, FramingError, FramingErrorKind};

/// Read at once. On the stack, so that a connection that is silent holds no buffer.
const CHUNK_BYTES: usize = 16 * 1024;
/// Messages in one write.
const WRITE_BATCH: usize = 32;
/// How long a connection that ends in order may take to say its last.
const CLOSING_TIME: Duration = Duration::from_secs(1);
/// The answer to a ping (RFC 5626 §4.4.1).
const PONG: Bytes = Bytes::from_static(b"\r\n");

/// A message on its way out.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub(super) bytes: Bytes,
    /// 0: nobody asks what becomes of it.
    pub(super) tag: u128,
    /// Who is told when it fails.
    pub(super) worker: usize,
}

/// What senders see of a connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) flow: Flow,
    /// Our end of it, once it is open.
    pub(super) local: OnceLock<SocketAddr>,
    queue: mpsc::Sender<Outgoing>,
    queued_bytes: AtomicUsize,
    queue_bytes_max: usize,
    /// A worker waits for something to be sent by it.
    pub(super) is_expected: AtomicBool,
    /// The peer takes nothing at the moment.
    is_blocked: AtomicBool,
    overflow: Notify,
}

impl Link {
    /// It is open.
    pub(super) fn is_at(&self, local: Option<SocketAddr>) {
        if let Some(local) = local {
            // A connection opens once.
            let _ = self.local.set(local);
        }
    }

    /// Queues a message, unless the queue is full. A peer that takes nothing while its queue is full does not read: its
    /// connection is closed, because what it misses is lost anyway. A queue that is full for any other reason only
    /// refuses: the connection is being opened, or we are too busy to write.
    pub(super) fn send(&self, outgoing: Outgoing) -> Result<(), SendError> {
        let bytes = outgoing.bytes.len();
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let sent = if queued.saturating_add(bytes) > self.queue_bytes_max {
            Err(SendError::QueueFull)
        } else {
            self.queue.try_send(outgoing).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => SendError::QueueFull,
                mpsc::error::TrySendError::Closed(_) => SendError::NotConnected,
            })
        };
        if sent.is_err() {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        if sent == Err(SendError::QueueFull) && self.is_blocked.load(Ordering::Relaxed) {
            self.overflow.notify_one();
        }
        sent
    }
}

/// A connection's own side: what its task works with.
pub(super) struct Connection {
    shared: Arc<Shared>,
    link: Arc<Link>,
    outbox: Outbox,
    place: Admitted,
}

/// Why a connection ends.
enum End {
    /// The peer closed it, or it broke.
    Closed,
    /// The peer sends what cannot be framed.
    Refused(FramingError),
    /// The peer is shut out.
    Banned,
    /// A message was not complete in time.
    Partial,
    /// The peer takes nothing.
    Stalled,
    /// The peer takes less than is sent.
    Overflow,
    /// We stop.
    Stopped,
}

impl End {
    fn drop_reason(&self) -> Option<DropReason> {
        match self {
            Self::Refused(error) if error.kind == FramingErrorKind::NotSip => Some(DropReason::NotSip),
            Self::Refused(_) => Some(DropReason::BadFraming),
            Self::Banned => Some(DropReason::Banned),
            Self::Partial => Some(DropReason::PartialTimeout),
            Self::Stalled => Some(DropReason::WriteTimeout),
            Self::Overflow => Some(DropReason::QueueFull),
            Self::Closed | Self::Stopped => None,
        }
    }

    /// Whether the peer may still take what is queued, or is to get an answer.
    fn is_orderly(&self) -> bool {
        match self {
            Self::Refused(error) => error.kind != FramingErrorKind::NotSip,
            Self::Closed | Self::Banned | Self::Partial | Self::Stopped => true,
            Self::Stalled | Self::Overflow => false,
        }
    }
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, flow: Flow, place: Admitted) -> (Self, Arc<Link>) {
        let limits = &shared.settings.limits;
        let (sender, queue) = mpsc::channel(limits.queue_messages);
        let link = Arc::new(Link {
            flow,
            local: OnceLock::new(),
            queue: sender,
            queued_bytes: AtomicUsize::new(0),
            queue_bytes_max: limits.queue_bytes,
            is_expected: AtomicBool::new(false),
            is_blocked: AtomicBool::new(false),
            overflow: Notify::new(),
        });
        let outbox = Outbox { queue, batch: VecDeque::new(), written: 0 };
        (Self { shared, link: Arc::clone(&link), outbox, place }, link)
    }

    /// Opens the connection and serves it, or reports that it could not be opened.
    pub(super) async fn open<S>(self, connecting: impl Future<Output = io::Result<S>>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let opened = tokio::select! {
            opened = timeout(self.shared.settings.limits.connect_timeout, connecting) => opened,
            () = self.shared.stopped() => Ok(Err(io::ErrorKind::Interrupted.into())),
        };
        if let Ok(Ok(stream)) = opened {
            return self.serve(stream).await;
        }
        self.shared.drops.count(DropReason::ConnectFailed);
        self.shared.forget(&self.link);
        self.fail_queued(SendError::ConnectFailed).await;
    }

    /// Reads and writes until the connection ends, then tells the workers.
    pub(super) async fn serve(mut self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let end = tokio::select! {
            end = read(&self.shared, &self.link, &mut reader) => end,
            end = self.outbox.write(&self.shared, &self.link, &mut writer) => end,
            () = self.link.overflow.notified() => End::Overflow,
            () = self.shared.stopped() => End::Stopped,
        };
        if let Some(reason) = end.drop_reason() {
            self.shared.drops.count(reason);
        }
        // From here on a sender finds the connection gone.
        self.shared.forget(&self.link);
        self.outbox.queue.close();
        if end.is_orderly() {
            // A peer that takes no last words goes without.
            let _ = timeout(CLOSING_TIME, self.close(&end, &mut reader, &mut writer)).await;
        }
        drop((reader, writer));
        let flow = self.link.flow;
        let shared = Arc::clone(&self.shared);
        let place = self.fail_queued(SendError::NotConnected).await;
        for inbox in &shared.inboxes {
            // A worker that has ended needs no news.
            let _ = inbox.send(Event::Closed { flow }).await;
        }
        drop(place);
    }

    async fn close<S: AsyncRead + AsyncWrite>(
        &mut self,
        end: &End,
        reader: &mut tokio::io::ReadHalf<S>,
        writer: &mut tokio::io::WriteHalf<S>,
    ) -> io::Result<()> {
        if let End::Refused(error) = end {
            let answer = (self.shared.settings.refusal)(error);
            self.outbox.batch.extend(answer.map(|bytes| Outgoing { bytes, tag: 0, worker: 0 }));
        }
        while self.outbox.fill().await {
            self.outbox.write_some(&self.link, writer).await?;
        }
        writer.shutdown().await?;
        if matches!(end, End::Refused(_)) {
            // Closing with bytes unread resets the connection, and the answer would be lost with it.
            tokio::io::copy(reader, &mut tokio::io::sink()).await?;
        }
        Ok(())
    }

    /// Reports each message that was not written, and gives the connection's place back to be held on to.
    async fn fail_queued(mut self, error: SendError) -> Admitted {
        self.outbox.queue.close();
        while let Some(outgoing) = self.outbox.next().await {
            if let Some(inbox) = self.shared.inboxes.get(outgoing.worker).filter(|_| outgoing.tag != 0) {
                let _ = inbox.send(Event::SendFailed { tag: outgoing.tag, error }).await;
            }
        }
        self.place
    }
}

/// Delivers the peer's messages. A worker that is behind is waited for, and with it this peer, but no other.
async fn read(shared: &Shared, link: &Link, reader: &mut (impl AsyncRead + Unpin)) -> End {
    let limits = &shared.settings.limits;
    let mut framer = Framer::new(shared.settings.framing);
    let mut deadline = Some(Instant::now() + limits.silent_timeout);
    loop {
        let was_partial = framer.is_partial();
        let read = match deadline {
            Some(deadline) => timeout_at(deadline, read_chunk(reader, &mut framer)).await,
            None => Ok(read_chunk(reader, &mut framer).await),
        };
        match read {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return End::Closed,
            Err(_) => return End::Partial,
        }
        let is_expected = link.is_expected.load(Ordering::Relaxed);
        let (mut frames, mut is_sign) = (0, false);
        loop {
            match framer.next_frame() {
                Ok(Some(Frame::Message(bytes))) => match shared.settings.door.admits(&link.flow, &bytes) {
                    Ok(()) => {
                        is_sign |= is_expected && is_sign_of_life(&bytes);
                        if !shared.deliver(Inbound { flow: link.flow, bytes }).await {
                            return End::Stopped;
                        }
                    }
                    Err(DropReason::Banned) => return End::Banned,
                    Err(reason) => shared.drops.count(reason),
                },
                Ok(Some(Frame::Ping)) => {
                    is_sign = true;
                    // A peer that does not read its pongs does without.
                    let _ = link.send(Outgoing { bytes: PONG, tag: 0, worker: 0 });
                }
                Ok(None) => break,
                Err(error) => return End::Refused(error),
            }
            frames += 1;
        }
        // A single line end is a keep-alive, too.
        if is_expected && (is_sign || frames == 0 && !framer.is_partial()) {
            shared.tell_heard(link);
        }
        // A message has its time from its first byte on: more bytes do not give it more.
        deadline = match (framer.is_partial(), was_partial && frames == 0) {
            (true, true) => deadline,
            (true, false) => Some(Instant::now() + limits.partial_timeout),
            (false, _) if frames > 0 => None,
            (false, _) => deadline,
        };
    }
}

/// Whether whoever sent this is surely awake: a REGISTER tells of itself by what becomes of it, and a response may be one to
/// something that was asked long ago.
fn is_sign_of_life(message: &[u8]) -> bool {
    !message.starts_with(b"REGISTER ") && !message.starts_with(b"SIP/")
}

async fn read_chunk(reader: &mut (impl AsyncRead + Unpin), framer: &mut Framer) -> io::Result<usize> {
    std::future::poll_fn(|context| {
        let mut space = [MaybeUninit::<u8>::uninit(); CHUNK_BYTES];
        let mut chunk = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut *reader).poll_read(context, &mut chunk))?;
        framer.feed(chunk.filled());
        Ok(chunk.filled().len()).into()
    })
    .await
}

/// What is queued for a peer, and what of it is being written.
struct Outbox {
    queue: mpsc::Receiver<Outgoing>,
    batch: VecDeque<Outgoing>,
    /// Of the first message of the batch.
    written: usize,
}

impl Outbox {
    /// Writes what comes until it fails.
    async fn write(&mut self, shared: &Shared, link: &Link, writer: &mut (impl AsyncWrite + Unpin)) -> End {
        while self.fill().await {
            match timeout(shared.settings.limits.write_timeout, self.write_some(link, writer)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return End::Closed,
                Err(_) => return End::Stalled,
            }
        }
        End::Closed
    }

    /// Waits for something to write; false when the queue is closed and empty.
    async fn fill(&mut self) -> bool {
        if self.batch.is_empty() {
            self.batch.extend(self.queue.recv().await);
        }
        while self.batch.len() < WRITE_BATCH
            && let Ok(outgoing) = self.queue.try_recv()
        {
            self.batch.push_back(outgoing);
        }
        !self.batch.is_empty()
    }

    /// One write, of as many messages as the peer takes. Safe to drop while waiting.
    async fn write_some(&mut self, link: &Link, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut skip = self.written;
        let slices: SmallVec<[IoSlice<'_>; WRITE_BATCH]> = self
            .batch
            .iter()
            .map(|outgoing| IoSlice::new(outgoing.bytes.get(std::mem::take(&mut skip)..).unwrap_or_default()))
            .collect();
        let mut count = std::future::poll_fn(|context| {
            let written = Pin::new(&mut *writer).poll_write_vectored(context, &slices);
            link.is_blocked.store(written.is_pending(), Ordering::Relaxed);
            written
        })
        .await?;
        drop(slices);
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = self.batch.front() {
            let left = first.bytes.len() - self.written;
            if count < left {
                self.written += count;
                break;
            }
            count -= left;
            self.written = 0;
            link.queued_bytes.fetch_sub(first.bytes.len(), Ordering::Relaxed);
            self.batch.pop_front();
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Outgoing> {
        match self.batch.pop_front() {
            Some(outgoing) => Some(outgoing),
            None => self.queue.recv().await,
        }
    }
}
