/* What a session of torture.c does and says, made from its seed alone: both peers know all of it, so each byte that
 * arrives can be compared with the one that was meant. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { CLIENT, SERVER };

/* What the bytes are. COPY: CopyData both ways, as in replication. ROWS: queries and their answers. OPAQUE: no protocol. */
enum { COPY, ROWS, OPAQUE };
static const char *const SHAPES[] = {"copy", "rows", "opaque"};

/* How it ends. HALF_CLOSE: each side shuts down when it has said everything. All others are done by one side:
 * CLOSE when it has read everything, UNREAD while bytes lie unread, RESET when its bytes are with the other kernel,
 * ABORT at once; PARKED and PARKED_UNREAD wait in the states of CLOSE and UNREAD to be killed. */
enum { HALF_CLOSE, CLOSE, UNREAD, RESET, ABORT, PARKED, PARKED_UNREAD };
static const char *const ENDINGS[] = {"half_close", "close", "unread", "reset", "abort", "parked", "parked_unread"};

/* How a side waits: in the call itself, or with poll or edge-triggered epoll on a non-blocking socket. */
enum { BLOCKING, POLLING, EDGES };

enum { MOST_EXCHANGES = 256 };

struct script {
    uint64_t seed;
    int shape, ending, ender;
    uint64_t total[2];   /* bytes that a side has to say */
    uint64_t stop_at;    /* how many the ender reads */
    int shuts;           /* whether the other one shuts down when it has said everything */
    int buffers[2];      /* SO_SNDBUF and SO_RCVBUF of a side; 0: as they are */
    int waits[2];
    int stalls[2];       /* how often at most a side stops reading for a while */
    int exchanges, ahead; /* ROWS: how many, and how many queries at once */
    uint64_t ends[2][MOST_EXCHANGES]; /* ROWS: where the queries and the answers end */
    int cancels;         /* whether the client sends a cancel request on the way */
};

static uint64_t next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static uint64_t below(uint64_t *state, uint64_t limit)
{
    return limit ? next(state) % limit : 0;
}

/* As often one byte as half of `bits` bits. */
static uint64_t some_size(uint64_t *state, int bits)
{
    return 1 + below(state, 1ull << below(state, bits + 1));
}

/* The first bytes behind the login, a body of random bytes behind them, and what follows that. */
struct frame {
    uint8_t head[32], tail[32];
    size_t head_bytes, tail_bytes;
    uint64_t body_bytes;
    int is_text;
};

static size_t put(uint8_t *at, uint8_t type, uint32_t body_bytes)
{
    uint32_t length = body_bytes + 4;
    at[0] = type;
    for (int i = 0; i < 4; i++)
        at[1 + i] = (uint8_t)(length >> (24 - 8 * i));
    return 5;
}

static struct frame frame_of(int shape, int side, uint64_t *state)
{
    struct frame frame = {.head_bytes = 0};
    if (shape == OPAQUE) {
        frame.body_bytes = 1 << 20;
    } else if (shape == COPY) {
        frame.body_bytes = some_size(state, 17);
        frame.head_bytes = put(frame.head, 'd', frame.body_bytes);
    } else if (side == CLIENT) {
        frame.is_text = 1;
        frame.body_bytes = some_size(state, 13);
        frame.head_bytes = put(frame.head, 'Q', frame.body_bytes + 1);
        frame.tail_bytes = 1; /* the NUL */
    } else {
        static const uint8_t end[] = "C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";
        frame.body_bytes = some_size(state, 16);
        frame.head_bytes = put(frame.head, 'T', 2) + 2;
        frame.head_bytes += put(frame.head + frame.head_bytes, 'D', frame.body_bytes);
        frame.tail_bytes = sizeof end - 1;
        memcpy(frame.tail, end, frame.tail_bytes);
    }
    return frame;
}

/* The bytes that one side says, one after the other. */
struct stream {
    int shape, side;
    uint64_t frames;        /* state: of the frames' sizes */
    uint64_t bodies, count; /* what bodies are made of, and how many bytes of them there were */
    struct frame frame;
    uint64_t at; /* within the frame */
};

static struct stream stream_of(const struct script *script, int side)
{
    struct stream stream = {.shape = script->shape, .side = side};
    stream.frames = script->seed ^ (side ? 0x5eed5eed : 0xface);
    stream.bodies = script->seed * 31 + side;
    return stream;
}

/* Random bytes, of which eight come from one number. */
static void say_body(struct stream *stream, uint8_t *to, size_t count)
{
    for (size_t done = 0; done < count;) {
        uint64_t state = stream->bodies + (stream->count >> 3);
        uint64_t number = next(&state);
        size_t from = stream->count & 7, some = 8 - from < count - done ? 8 - from : count - done;
        memcpy(to + done, (uint8_t *)&number + from, some);
        done += some;
        stream->count += some;
    }
    for (size_t i = 0; stream->frame.is_text && i < count; i++)
        to[i] = ' ' + to[i] % 95;
}

static void say(struct stream *stream, uint8_t *to, size_t count)
{
    while (count > 0) {
        struct frame *frame = &stream->frame;
        uint64_t body = frame->head_bytes + frame->body_bytes, at = stream->at;
        size_t some = 1;
        if (at == body + frame->tail_bytes) {
            *frame = frame_of(stream->shape, stream->side, &stream->frames);
            stream->at = 0;
            continue;
        }
        if (at < frame->head_bytes) {
            *to = frame->head[at];
        } else if (at >= body) {
            *to = frame->tail[at - body];
        } else {
            some = body - at < count ? body - at : count;
            say_body(stream, to, some);
        }
        stream->at += some;
        to += some;
        count -= some;
    }
}

static void plan_rows(struct script *script, uint64_t *state)
{
    script->exchanges = 1 + below(state, MOST_EXCHANGES);
    script->ahead = below(state, 2) ? 1 : 1 + below(state, 16);
    for (int side = CLIENT; side <= SERVER; side++) {
        struct stream stream = stream_of(script, side);
        script->total[side] = 0;
        for (int i = 0; i < script->exchanges; i++) {
            struct frame frame = frame_of(ROWS, side, &stream.frames);
            script->total[side] += frame.head_bytes + frame.body_bytes + frame.tail_bytes;
            script->ends[side][i] = script->total[side];
        }
    }
}

/* `bits`: sizes are below 1 << bits. `parked`: who is to be killed once it is parked, or -1. */
static struct script script_of(uint64_t seed, int bits, int parked)
{
    uint64_t state = seed;
    struct script script = {.seed = seed};
    script.shape = below(&state, 3);
    script.ender = parked >= 0 ? parked : (int)below(&state, 2);
    script.ending = parked >= 0 ? PARKED + (int)below(&state, 2) : (int)below(&state, PARKED);
    script.shuts = below(&state, 2);
    script.cancels = below(&state, 8) == 0;
    for (int side = CLIENT; side <= SERVER; side++) {
        script.total[side] = some_size(&state, bits) - below(&state, 2);
        script.buffers[side] = below(&state, 4) ? 0 : 16384 + (int)below(&state, 131072);
        script.waits[side] = below(&state, 3);
        script.stalls[side] = below(&state, 2) ? 0 : below(&state, 24);
    }
    if (script.shape == ROWS && bits > 13) {
        /* Nothing can be unread where the answer is waited for. */
        script.ending = script.ending <= CLOSE ? script.ending : parked >= 0 ? PARKED : HALF_CLOSE;
        plan_rows(&script, &state);
    } else if (script.shape == ROWS) {
        script.shape = COPY;
    }
    uint64_t theirs = script.total[!script.ender];
    int leaves = script.ending == UNREAD || script.ending == PARKED_UNREAD;
    if (leaves && theirs == 0)
        theirs = script.total[!script.ender] = 1;
    int reads_some = leaves || script.ending == RESET || script.ending == ABORT;
    script.stop_at = reads_some ? below(&state, theirs) : theirs;
    return script;
}
