// Sockets watched beside libmicrohttpd.
//
// It does not look at the sockets of suspended connections, so a client that leaves while its answer is being computed
// is seen here. Nor does it bound how long a request may take to arrive, one byte at a time; deadlines are kept here,
// and a connection past its own is shut down, which the network's thread then sees as its end. And where a request is
// refused before all of it was read, closing the socket would throw the answer away with what still arrives (RFC 9112,
// 9.6): such sockets linger here, read to the end for a little while.
//
// A socket is touched only under http.lock, and libmicrohttpd says before it closes one (peer_free), so that a number
// that the system has given to another connection by then is never meant.
#include "server/http.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define IDLE_SECONDS   60.0 // between requests of one connection
#define LINGER_SECONDS 2.0
#define LOOK_SECONDS   0.5

enum { TICK_MS = 200, LINGER_TICK_MS = 10 };

// ---- Peers ----

static void unlink_peer(peer *p) {
    if (!p->waiting) return;
    p->prev->next = p->next;
    p->next->prev = p->prev;
    p->waiting = false;
}

static void append_peer(http *h, peer *p, double deadline) {
    unlink_peer(p);
    p->prev = h->waiting.prev;
    p->next = &h->waiting;
    p->prev->next = p;
    h->waiting.prev = p;
    p->waiting = true;
    p->deadline = deadline;
}

static void shut(http *h, peer *p) {
    unlink_peer(p);
    p->closing = true;
    h->n_closing++;
    shutdown(p->fd, SHUT_RDWR);
}

// Room for those to come: of clients that have not said what they want, the one that has had the longest time to.
static void make_room(http *h) {
    int reserve = h->max_connections / 16 + 8;
    if (h->n_peers - h->n_closing <= h->max_connections - reserve || h->waiting.next == &h->waiting) return;
    h->counts.shut++;
    shut(h, h->waiting.next);
}

peer *peer_new(http *h, int fd) {
    peer *p = upg_alloc(1, sizeof *p, NULL);
    if (!p) return NULL;
    p->fd = fd;
    pthread_mutex_lock(&h->lock);
    h->n_peers++;
    append_peer(h, p, upg_now() + h->server->options->read_seconds);
    make_room(h);
    pthread_mutex_unlock(&h->lock);
    return p;
}

void peer_head_arrived(http *h, peer *p) {
    pthread_mutex_lock(&h->lock);
    if (!p->closing && p->again) append_peer(h, p, upg_now() + h->server->options->read_seconds);
    p->look = 0;
    pthread_mutex_unlock(&h->lock);
}

void peer_busy(http *h, peer *p) {
    pthread_mutex_lock(&h->lock);
    unlink_peer(p);
    pthread_mutex_unlock(&h->lock);
}

void peer_waits(http *h, peer *p) {
    double idle = h->server->options->read_seconds > IDLE_SECONDS ? h->server->options->read_seconds : IDLE_SECONDS;
    pthread_mutex_lock(&h->lock);
    p->again = true;
    if (!p->closing) append_peer(h, p, upg_now() + idle);
    p->look = upg_now() + LOOK_SECONDS;
    pthread_mutex_unlock(&h->lock);
}

void peer_free(http *h, peer *p) {
    pthread_mutex_lock(&h->lock);
    if (p->linger && h->n_lingering < MAX_LINGER) {
        int fd = fcntl(p->fd, F_DUPFD_CLOEXEC, 0);
        if (fd >= 0) {
            shutdown(fd, SHUT_WR);
            h->lingering[h->n_lingering++] = (lingerer){fd, upg_now() + LINGER_SECONDS};
        }
    }
    unlink_peer(p);
    h->n_peers--;
    h->n_closing -= p->closing;
    pthread_mutex_unlock(&h->lock);
    free(p);
}

// ---- Running exchanges ----

void watch_add(http *h, exchange *x) {
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = x->id};
    pthread_mutex_lock(&h->lock);
    x->running = true;
    x->prev_running = NULL;
    x->next_running = h->running;
    if (h->running) h->running->prev_running = x;
    h->running = x;
    h->n_running++;
    // Without a watch the client's leaving is noticed when something is sent to it.
    if (epoll_ctl(h->epoll, EPOLL_CTL_ADD, x->peer->fd, &event)) errno = 0;
    pthread_mutex_unlock(&h->lock);
}

void watch_remove(http *h, exchange *x) {
    pthread_mutex_lock(&h->lock);
    if (x->running) {
        x->running = false;
        if (x->prev_running) x->prev_running->next_running = x->next_running;
        if (x->next_running) x->next_running->prev_running = x->prev_running;
        if (h->running == x) h->running = x->next_running;
        h->n_running--;
        epoll_ctl(h->epoll, EPOLL_CTL_DEL, x->peer->fd, NULL);
    }
    pthread_mutex_unlock(&h->lock);
}

// The running exchange of that id, held; NULL if it has ended.
static exchange *find_running(http *h, uint64_t id) {
    pthread_mutex_lock(&h->lock);
    exchange *x = h->running;
    while (x && x->id != id) x = x->next_running;
    if (x) atomic_fetch_add(&x->refs, 1);
    pthread_mutex_unlock(&h->lock);
    return x;
}

void http_cancel_running(http *h) {
    pthread_mutex_lock(&h->lock);
    int n = h->n_running;
    exchange **all = upg_alloc((size_t)n, sizeof *all, NULL);
    n = 0;
    for (exchange *x = h->running; x && all; x = x->next_running) {
        atomic_fetch_add(&x->refs, 1);
        all[n++] = x;
    }
    pthread_mutex_unlock(&h->lock);
    for (int i = 0; i < n; i++) {
        exchange_call_left(all[i]);
        exchange_release(all[i]);
    }
    free(all);
}

// ---- The thread ----

// A client that has said it sends no more, together with its last request, is waited for in vain: the library takes no
// notice of an end that came while it was busy. What else it had sent has been taken by the time of the look.
static bool has_left(peer *p, double now) {
    char byte;
    if (!p->look || now < p->look) return false;
    p->look = 0;
    return !recv(p->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
}

static void reap(http *h, double now) {
    for (peer *p = h->waiting.next, *next; p != &h->waiting; p = next) {
        next = p->next;
        bool late = p->deadline <= now;
        h->counts.shut += late;
        if (late || has_left(p, now)) shut(h, p);
    }
}

// A socket that is read until its client closes it.
static bool lingers(const lingerer *l, double now) {
    char trash[16 << 10];
    for (int i = 0; i < 64 && now < l->until; i++) {
        ssize_t n = recv(l->fd, trash, sizeof trash, MSG_DONTWAIT);
        if (n < 0) return errno == EAGAIN || errno == EINTR;
        if (!n) return false;
    }
    return now < l->until;
}

static void drain_lingering(http *h, double now) {
    int n = 0;
    for (int i = 0; i < h->n_lingering; i++)
        if (lingers(&h->lingering[i], now))
            h->lingering[n++] = h->lingering[i];
        else
            close(h->lingering[i].fd);
    h->n_lingering = n;
}

static void *watch(void *ctx) {
    enum { N_EVENTS = 64 };
    http *h = ctx;
    double next = 0;
    int patience = TICK_MS;
    for (;;) {
        struct epoll_event events[N_EVENTS];
        int n = epoll_wait(h->epoll, events, N_EVENTS, patience);
        for (int i = 0; i < n; i++) {
            if (!events[i].data.u64) return NULL;
            exchange *x = find_running(h, events[i].data.u64);
            if (!x) continue;
            exchange_gone(x);
            exchange_release(x);
        }
        double now = upg_now();
        pthread_mutex_lock(&h->lock);
        if (now >= next) reap(h, now);
        if (now >= next) next = now + TICK_MS / 1000.0;
        drain_lingering(h, now);
        patience = h->n_lingering ? LINGER_TICK_MS : TICK_MS;
        pthread_mutex_unlock(&h->lock);
    }
}

int watch_start(http *h, upg_error *e) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0};
    h->epoll = epoll_create1(EPOLL_CLOEXEC);
    h->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (h->epoll < 0 || h->wake < 0 || epoll_ctl(h->epoll, EPOLL_CTL_ADD, h->wake, &event))
        return upg_fail(e, "cannot watch sockets: %s", strerror(errno));
    int failed = pthread_create(&h->watcher, NULL, watch, h);
    if (failed) return upg_fail(e, "cannot make a thread: %s", strerror(failed));
    h->watching = true;
    return 0;
}

void watch_stop(http *h) {
    uint64_t one = 1;
    if (h->watching && write(h->wake, &one, sizeof one) == sizeof one) pthread_join(h->watcher, NULL);
    h->watching = false;
    for (int i = 0; i < h->n_lingering; i++) close(h->lingering[i].fd);
    h->n_lingering = 0;
    if (h->epoll >= 0) close(h->epoll);
    if (h->wake >= 0) close(h->wake);
    h->epoll = h->wake = -1;
}
