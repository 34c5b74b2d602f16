// SPDX-License-Identifier: MIT
/*
 * The transport that encrypts. OpenSSL's records are gathered in a buffer of our own and leave in
 * one call for many of them; receiving takes several records at once. Both buffers exist only
 * while there is something in them, so that an idle connection has none. Where the kernel can
 * encrypt, a server on TCP leaves the sending of TLS 1.2 to it; then bytes go out as on a plain
 * socket. One thread at a time uses a transport; nothing here waits but tls_connect().
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"
#include "size.h"
#include "tls-internal.h"

enum {
	RECORD = SSL3_RT_MAX_PLAIN_LENGTH,
	/* What one send encrypts at most: as much as stays in the caches on its way to the
	 * socket. */
	SEND_BATCH = 4 * RECORD,
	RECORD_OVERHEAD = 256,
	/* Answers to a peer's key updates that it does not read: beyond this it is hostile. */
	CONTROL_MAX = 64 << 10,
	/* What one step takes from the socket beyond what it was asked for: a peer whose records
	 * hold nothing for us must not keep a thread. */
	STEP_MAX = 64 << 10,
	FAULT_MAX = 160,
};

/* Records without data (new keys, wishes for a new handshake) cost time and give nothing. So many
 * may come at once, and one more for each of the pauses; nobody who is not hostile needs more. */
enum { CONTROL_BURST = 64 };
#define CONTROL_PAUSE CLOCK_MILLISECOND

struct tls {
	SSL *ssl;
	int fd;
	/* Ciphertext [begin, end) that has to leave before anything else. */
	uint8_t *out;
	size_t begin, end, room;
	size_t accepted;  /* bytes of the caller in there: told when they have left */
	uint32_t records; /* encrypted with this key */
	size_t allowance; /* bytes that this step may still take from the socket */
	uint64_t paid;    /* records without data are paid for until then, by the clock */
	bool flooded;     /* there were too many of them */
	bool drained;     /* the last step found the socket empty */
	bool established;
	bool broken;                     /* nothing more may be asked of ssl */
	bool wants_write;                /* the handshake waits for room in the socket */
	char user[TLS_PSK_USER_MAX + 1]; /* whose key it is, "": none was asked for */
	char fault[FAULT_MAX];
};

static struct tls *tls_of(const struct transport *transport)
{
	return transport->layer;
}

/* ---- Between OpenSSL and the socket ---- */

static bool reserve(struct tls *tls, size_t length)
{
	size_t room = tls->end + length;
	uint8_t *grown;

	if (room <= tls->room)
		return true;
	grown = realloc(tls->out, room);
	if (!grown)
		return false;
	tls->out = grown;
	tls->room = room;
	return true;
}

static int bio_write(BIO *bio, const char *bytes, size_t length, size_t *written)
{
	struct tls *tls = BIO_get_data(bio);

	BIO_clear_retry_flags(bio);
	if (!reserve(tls, length))
		return 0;
	memcpy(tls->out + tls->end, bytes, length);
	tls->end += length;
	*written = length;
	return 1;
}

static int bio_read(BIO *bio, char *bytes, size_t length, size_t *taken)
{
	struct tls *tls = BIO_get_data(bio);
	ssize_t got;

	BIO_clear_retry_flags(bio);
	*taken = 0;
	if (tls->flooded) {
		snprintf(tls->fault, sizeof(tls->fault),
			 "the peer sends too many records without data");
		return 0;
	}
	if (!tls->allowance) {
		BIO_set_retry_read(bio);
		return 0;
	}
	do
		got = recv(tls->fd, bytes, length, MSG_DONTWAIT);
	while (got < 0 && errno == EINTR);
	tls->drained = got < 0 && errno == EAGAIN;
	if (tls->drained)
		BIO_set_retry_read(bio);
	if (got <= 0)
		return 0;
	*taken = (size_t)got;
	tls->allowance -= min_of(tls->allowance, *taken);
	return 1;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
	(void)bio, (void)number, (void)pointer;
	return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *bio_method;
static pthread_once_t bio_once = PTHREAD_ONCE_INIT;

static void make_bio_method(void)
{
	bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "hawser");
	if (!bio_method)
		return;
	BIO_meth_set_write_ex(bio_method, bio_write);
	BIO_meth_set_read_ex(bio_method, bio_read);
	BIO_meth_set_ctrl(bio_method, bio_control);
}

static BIO *bio_new(struct tls *tls)
{
	BIO *bio;

	pthread_once(&bio_once, make_bio_method);
	bio = bio_method ? BIO_new(bio_method) : NULL;
	if (bio) {
		BIO_set_data(bio, tls);
		BIO_set_init(bio, 1);
	}
	return bio;
}

/* What follows may take so many bytes from the socket, and a little more. */
static void begin_step(struct tls *tls, size_t length)
{
	tls->allowance = length + STEP_MAX;
	tls->drained = false;
}

/* Sends what is encrypted: 0 when all of it has left, -EAGAIN or another -errno. */
static int flush(struct tls *tls, int flags)
{
	while (tls->begin < tls->end) {
		ssize_t sent = send(tls->fd, tls->out + tls->begin, tls->end - tls->begin,
				    MSG_DONTWAIT | MSG_NOSIGNAL | (flags & MSG_MORE));

		if (sent >= 0)
			tls->begin += (size_t)sent;
		else if (errno != EINTR)
			return -errno;
	}
	free(tls->out);
	tls->out = NULL;
	tls->begin = tls->end = tls->room = 0;
	return 0;
}

/* ---- Faults ---- */

/* OpenSSL failed for good: notes why, once, and returns the number for it. */
static int fail(struct tls *tls, int kind)
{
	unsigned long code = ERR_peek_last_error();
	int number = errno;

	if (!tls->broken && code && ERR_GET_REASON(code) != SSL_R_UNEXPECTED_EOF_WHILE_READING)
		snprintf(tls->fault, sizeof(tls->fault), "%s", tls_reason());
	ERR_clear_error();
	tls->broken = true;
	if (*tls->fault)
		return -ECONNABORTED;
	if (kind == SSL_ERROR_SYSCALL && number && number != EAGAIN)
		return -number;
	return -ECONNRESET; /* no close_notify: somebody cut the stream */
}

static const char *layer_reason(const struct transport *transport)
{
	const struct tls *tls = tls_of(transport);

	return *tls->fault ? tls->fault : NULL;
}

/* ---- Receiving ---- */

/* Answers that OpenSSL gives by itself (key updates) leave when they can. */
static int flush_control(struct tls *tls)
{
	int rc = tls->begin < tls->end ? flush(tls, 0) : 0;

	if (rc == -EAGAIN && tls->end - tls->begin > CONTROL_MAX + tls->accepted * 2) {
		snprintf(tls->fault, sizeof(tls->fault), "the peer reads no answers");
		tls->broken = true;
		return -ECONNABORTED;
	}
	return rc == -EAGAIN ? 0 : rc;
}

static ssize_t layer_recv(struct transport *transport, void *buffer, size_t length, int flags)
{
	struct tls *tls = tls_of(transport);
	size_t done = 0, got = 0;
	int kind = SSL_ERROR_NONE, rc;

	(void)flags;
	if (tls->broken)
		return -ECONNABORTED;
	ERR_clear_error();
	begin_step(tls, length);
	while (done < length) {
		errno = 0;
		if (SSL_read_ex(tls->ssl, (uint8_t *)buffer + done, length - done, &got) != 1) {
			kind = SSL_get_error(tls->ssl, 0);
			break;
		}
		done += got;
		if (!SSL_has_pending(tls->ssl))
			break;
	}
	if (kind != SSL_ERROR_NONE && kind != SSL_ERROR_WANT_READ &&
	    kind != SSL_ERROR_ZERO_RETURN) {
		rc = fail(tls, kind);
		return done ? (ssize_t)done : rc;
	}
	rc = flush_control(tls);
	if (done)
		return (ssize_t)done;
	if (rc)
		return rc;
	return kind == SSL_ERROR_ZERO_RETURN ? 0 : -EAGAIN;
}

static size_t layer_pending(const struct transport *transport)
{
	const struct tls *tls = tls_of(transport);

	return !tls->broken && !tls->drained && SSL_has_pending(tls->ssl) ? 1 : 0;
}

/* ---- Sending ---- */

/* RFC 8446, 5.5: AES-GCM is good for some 24 million records with one key. OpenSSL does
 * not count them, and the connection of a disk lives long. */
uint32_t tls_records_per_key = 1 << 24;

static bool count_record(struct tls *tls)
{
	if (++tls->records < tls_records_per_key || SSL_version(tls->ssl) != TLS1_3_VERSION)
		return true;
	tls->records = 0;
	return SSL_key_update(tls->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1;
}

static bool encrypt(struct tls *tls, const uint8_t *bytes, size_t length)
{
	while (length) {
		size_t written = 0;

		/* One call makes one record (SSL_MODE_ENABLE_PARTIAL_WRITE). */
		if (!count_record(tls) || SSL_write_ex(tls->ssl, bytes, length, &written) != 1)
			return false;
		bytes += written;
		length -= written;
	}
	return true;
}

/* What goes into records: small runs are joined, so that every record but the last is full. */
struct stage {
	size_t used;
	uint8_t bytes[RECORD];
};

static bool encrypt_run(struct tls *tls, struct stage *stage, const uint8_t *bytes, size_t length)
{
	while (length) {
		size_t step;

		if (!stage->used && length >= RECORD) {
			step = length - length % RECORD;
			if (!encrypt(tls, bytes, step))
				return false;
		} else {
			step = min_of(length, sizeof(stage->bytes) - stage->used);
			memcpy(stage->bytes + stage->used, bytes, step);
			stage->used += step;
			if (stage->used == sizeof(stage->bytes)) {
				if (!encrypt(tls, stage->bytes, stage->used))
					return false;
				stage->used = 0;
			}
		}
		bytes += step;
		length -= step;
	}
	return true;
}

/* Encrypts up to SEND_BATCH bytes of the runs; how many, or -1. */
static ssize_t encrypt_runs(struct tls *tls, const struct iovec *iov, int count)
{
	struct stage stage;
	size_t total = 0;
	bool ok = true;

	stage.used = 0;
	for (int i = 0; ok && i < count && total < SEND_BATCH; i++) {
		size_t length = min_of(iov[i].iov_len, SEND_BATCH - total);

		/* A single short run needs no copy. */
		if (count == 1 && length < RECORD)
			ok = encrypt(tls, iov[i].iov_base, length);
		else
			ok = encrypt_run(tls, &stage, iov[i].iov_base, length);
		total += length;
	}
	ok = ok && encrypt(tls, stage.bytes, stage.used);
	return ok ? (ssize_t)total : -1;
}

static size_t batch_length(const struct iovec *iov, int count)
{
	size_t total = 0;

	for (int i = 0; i < count && total < SEND_BATCH; i++)
		total += min_of(iov[i].iov_len, (size_t)SEND_BATCH);
	return min_of(total, (size_t)SEND_BATCH);
}

/*
 * Of a message to OpenSSL itself, such as a ticket, a part may have come; it sends nothing before
 * it has the rest. 0 when it has, -EAGAIN while it waits for the socket to be readable.
 */
static int finish_message(struct tls *tls)
{
	uint8_t byte;
	size_t got;
	int kind;

	if (SSL_is_init_finished(tls->ssl))
		return 0;
	begin_step(tls, 0);
	kind = SSL_peek_ex(tls->ssl, &byte, 1, &got) == 1 ? SSL_ERROR_NONE
							  : SSL_get_error(tls->ssl, 0);
	if (kind != SSL_ERROR_NONE && kind != SSL_ERROR_WANT_READ)
		return fail(tls, kind);
	return SSL_is_init_finished(tls->ssl) ? 0 : -EAGAIN;
}

static short layer_send_event(const struct transport *transport)
{
	const struct tls *tls = tls_of(transport);

	return tls->begin == tls->end && !SSL_is_init_finished(tls->ssl) ? POLLIN : POLLOUT;
}

static ssize_t layer_send(struct transport *transport, const struct iovec *iov, int count,
			  int flags)
{
	struct tls *tls = tls_of(transport);
	ssize_t done;
	int rc;

	if (tls->broken)
		return -EPIPE;
	rc = tls->begin < tls->end ? flush(tls, flags) : 0;
	if (rc)
		return rc;
	if (tls->accepted) {
		done = (ssize_t)tls->accepted;
		tls->accepted = 0;
		return done;
	}
	ERR_clear_error();
	errno = 0;
	rc = finish_message(tls);
	if (rc)
		return rc;
	done = (ssize_t)batch_length(iov, count);
	if (reserve(tls, (size_t)done + ((size_t)done / RECORD + 2) * RECORD_OVERHEAD))
		done = encrypt_runs(tls, iov, count);
	else
		done = -1;
	if (done < 0)
		return fail(tls, SSL_ERROR_SSL);
	rc = flush(tls, flags);
	if (rc == -EAGAIN)
		tls->accepted = (size_t)done;
	return rc ? rc : done;
}

/* ---- Where the kernel encrypts what is sent ---- */

static ssize_t kernel_send(struct transport *transport, const struct iovec *iov, int count,
			   int flags)
{
	struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count};
	ssize_t sent = sendmsg(transport->fd, &message, flags | MSG_NOSIGNAL);

	return sent < 0 ? -errno : sent;
}

/* ---- The end ---- */

static void layer_close(struct transport *transport, enum transport_close how)
{
	struct tls *tls = tls_of(transport);

	if (how == TRANSPORT_CLOSE_CLEAN && tls->established && !tls->broken) {
		SSL_shutdown(tls->ssl); /* S57: our half; nobody waits for the peer's */
		flush(tls, 0);
	}
	ERR_clear_error();
	close(tls->fd);
	SSL_free(tls->ssl);
	free(tls->out);
	free(tls);
	transport->layer = NULL;
}

static const struct transport_ops tls_ops = {
	.name = "tls",
	.recv = layer_recv,
	.send = layer_send,
	.send_event = layer_send_event,
	.pending = layer_pending,
	.reason = layer_reason,
	.close = layer_close,
	.reads_bytes = true,
};

static const struct transport_ops kernel_ops = {
	.name = "kernel-tls",
	.recv = layer_recv,
	.send = kernel_send,
	.pending = layer_pending,
	.reason = layer_reason,
	.close = layer_close,
};

bool tls_is_on(const struct transport *transport)
{
	return transport->ops == &tls_ops || transport->ops == &kernel_ops;
}

/* ---- The handshake ---- */

static int expect_name(SSL *ssl, const char *host)
{
	uint8_t address[16];
	bool number =
		inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;

	if (tls_check_host(host, NULL))
		return false;
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (number)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host);
	return SSL_set1_host(ssl, host) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
}

/* OpenSSL itself remembers it for TLS 1.2 only. */
void tls_note_user(SSL *ssl, const char *user)
{
	struct tls *tls = SSL_get_app_data(ssl);

	snprintf(tls->user, sizeof(tls->user), "%s", user);
}

/* Asked once for many connections: where it does not, each of their handshakes would try in vain,
 * which may even start modprobe. A socket that is not connected is refused for that only. */
bool tls_kernel_has_it(void)
{
	AUTO_CLOSE int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return false;
	return setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == 0 || errno == ENOTCONN;
}

/*
 * Called at each step of the handshake. In TLS 1.3 a peer may demand at any time that we change
 * our keys, and the kernel cannot change one: the connection would be lost. So it gets those of
 * TLS 1.2 only, which last as long as the connection.
 */
static void allow_kernel(const SSL *ssl, int where, int value)
{
	(void)where, (void)value;
	if (SSL_version(ssl) == TLS1_2_VERSION)
		SSL_set_options((SSL *)ssl, SSL_OP_ENABLE_KTLS);
}

/*
 * OpenSSL gives the keys to the kernel only through a BIO of its own kind, so a server on TCP
 * begins with one. Not for receiving: records of the kernel cannot be taken several at once.
 */
static void offer_to_kernel(SSL *ssl, int fd)
{
	BIO *socket = BIO_new_socket(fd, BIO_NOCLOSE);

	if (!socket)
		return;
	SSL_set_info_callback(ssl, allow_kernel);
	SSL_set0_wbio(ssl, socket);
}

/* After the handshake: did the kernel take the keys? If not, sending is ours, in large pieces. */
static bool taken_by_kernel(struct tls *tls)
{
	BIO *own = SSL_get_rbio(tls->ssl);

	SSL_set_info_callback(tls->ssl, NULL);
	if (SSL_get_wbio(tls->ssl) == own)
		return false;
	if (BIO_get_ktls_send(SSL_get_wbio(tls->ssl)))
		return true;
	BIO_up_ref(own);
	SSL_set0_wbio(tls->ssl, own);
	return false;
}

/* OpenSSL tells of all records that come, and follows new keys by itself. */
static void note_record(int sent, int version, int type, const void *bytes, size_t length, SSL *ssl,
			void *argument)
{
	struct tls *tls = argument;
	/* Where the kind of a record stands: TLS 1.3 encrypts it. */
	int place =
		SSL_version(ssl) == TLS1_3_VERSION ? SSL3_RT_INNER_CONTENT_TYPE : SSL3_RT_HEADER;
	uint64_t now;

	(void)version;
	if (sent || !tls->established || type != place || !length ||
	    *(const uint8_t *)bytes == SSL3_RT_APPLICATION_DATA)
		return;
	now = clock_now();
	tls->paid = max_of(tls->paid, now) + CONTROL_PAUSE;
	tls->flooded |= tls->paid > now + CONTROL_BURST * CONTROL_PAUSE;
}

static SSL *session_new(struct tls *tls, const struct tls_creds *creds, const char *host,
			bool is_unix)
{
	SSL *ssl = SSL_new(creds->context);
	BIO *bio = bio_new(tls);

	if (!ssl || !bio || (host && !expect_name(ssl, host))) {
		SSL_free(ssl);
		BIO_free(bio);
		return NULL;
	}
	SSL_set_bio(ssl, bio, bio);
	SSL_set_app_data(ssl, tls);
	SSL_set_msg_callback(ssl, note_record);
	SSL_set_msg_callback_arg(ssl, tls);
	if (creds->config.side == TLS_SERVER && creds->kernel && !is_unix)
		offer_to_kernel(ssl, tls->fd);
	if (creds->config.side == TLS_SERVER)
		SSL_set_accept_state(ssl);
	else
		SSL_set_connect_state(ssl);
	return ssl;
}

int tls_start(struct transport *transport, struct tls_creds *creds, const char *host,
	      struct error *err)
{
	struct tls *tls = calloc(1, sizeof(*tls));

	ERR_clear_error();
	if (tls) {
		tls->fd = transport->fd;
		tls->ssl = session_new(tls, creds, host, transport->is_unix);
	}
	if (!tls || !tls->ssl) {
		free(tls);
		return tls_error(err, ENOMEM, "Cannot begin with TLS");
	}
	fcntl(tls->fd, F_SETFL, fcntl(tls->fd, F_GETFL) | O_NONBLOCK);
	transport->ops = &tls_ops;
	transport->layer = tls;
	return 0;
}

short tls_wanted(const struct transport *transport)
{
	const struct tls *tls = tls_of(transport);

	return tls->wants_write || tls->begin < tls->end ? POLLOUT : POLLIN;
}

static int handshake_failed(struct tls *tls, int kind, struct error *err)
{
	long verified = SSL_get_verify_result(tls->ssl);
	unsigned long code = ERR_peek_last_error();
	int rc;

	/* No certificate at all is told apart from one that we do not like. */
	if (verified != X509_V_OK && ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED) {
		snprintf(tls->fault, sizeof(tls->fault), "%s",
			 X509_verify_cert_error_string(verified));
		ERR_clear_error();
		tls->broken = true;
		rc = -EKEYREJECTED;
	} else {
		rc = fail(tls, kind);
	}
	flush(tls, 0); /* the alert */
	if (rc == -EKEYREJECTED)
		return error_set(err, EKEYREJECTED, "the peer's certificate is not accepted: %s",
				 tls->fault);
	if (*tls->fault)
		return error_set(err, -rc, "the TLS handshake failed: %s", tls->fault);
	if (rc == -ECONNRESET)
		return error_set(err, ECONNRESET,
				 "the peer closed the connection during the TLS handshake");
	return error_set_errno(err, -rc, "the TLS handshake failed");
}

int tls_handshake(struct transport *transport, struct error *err)
{
	struct tls *tls = tls_of(transport);
	int rc, kind;

	if (tls->broken)
		return error_set(err, ECONNABORTED, "the TLS handshake failed");
	rc = flush(tls, 0);
	if (!rc && !tls->established) {
		ERR_clear_error();
		errno = 0;
		begin_step(tls, 0);
		rc = SSL_do_handshake(tls->ssl);
		kind = rc == 1 ? SSL_ERROR_NONE : SSL_get_error(tls->ssl, rc);
		tls->wants_write = kind == SSL_ERROR_WANT_WRITE;
		if (kind != SSL_ERROR_NONE && kind != SSL_ERROR_WANT_READ && !tls->wants_write)
			return handshake_failed(tls, kind, err);
		tls->established = kind == SSL_ERROR_NONE;
		if (tls->established && taken_by_kernel(tls))
			transport->ops = &kernel_ops;
		rc = flush(tls, 0);
	}
	if (rc == -EAGAIN || (!rc && !tls->established))
		return -EAGAIN;
	if (rc)
		tls->broken = true;
	return rc ? error_set_errno(err, -rc, "the TLS handshake failed") : 0;
}

int tls_connect(struct transport *transport, struct tls_creds *creds, const char *host,
		uint64_t deadline, struct error *err)
{
	int rc = tls_start(transport, creds, host, err);

	while (!rc && (rc = tls_handshake(transport, err)) == -EAGAIN) {
		struct pollfd item = {.fd = transport->fd, .events = tls_wanted(transport)};
		int ready = poll(&item, 1, clock_poll_timeout(deadline));

		rc = ready < 0 && errno != EINTR ? -errno : 0;
		if (rc)
			return error_set_errno(err, -rc, "the TLS handshake failed");
		/* Some peers always have more to say. */
		if (!ready || clock_now() >= deadline)
			return error_set(err, ETIMEDOUT,
					 "the peer did not finish the TLS handshake in time");
	}
	return rc;
}

/* ---- What became of it ---- */

bool tls_by_kernel(const struct transport *transport)
{
	return transport->ops == &kernel_ops;
}

const char *tls_version(const struct transport *transport)
{
	return tls_is_on(transport) ? SSL_get_version(tls_of(transport)->ssl) : "";
}

const char *tls_cipher(const struct transport *transport)
{
	const char *name = tls_is_on(transport) ? SSL_get_cipher_name(tls_of(transport)->ssl) : "";

	return name ? name : "";
}

char *tls_peer_name(const struct transport *transport)
{
	SSL *ssl = tls_is_on(transport) ? tls_of(transport)->ssl : NULL;
	X509 *certificate = ssl ? SSL_get0_peer_certificate(ssl) : NULL;

	if (certificate)
		return tls_name_format(X509_get_subject_name(certificate));
	return ssl && *tls_of(transport)->user ? strdup(tls_of(transport)->user) : NULL;
}
