// SPDX-License-Identifier: MIT
/*
 * The driver by generic netlink; the only file that knows netlink. The kernel then holds its own
 * reference to the sockets and no process has to stay. libnl folds kernel errors into codes of
 * its own, so the error callback takes the errno and the kernel's text from the message itself.
 * A channel is opened per verb. Any thread.
 */
#include "interface.h"

#include <errno.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/cleanup.h"

struct channel {
	struct nl_sock *socket;
	int family;
	/* The answer to the request under way. */
	bool done;
	int code;  /* positive errno */
	int index; /* of a CONNECT answer; -1: none came */
	char detail[160];
};

static void channel_close(struct channel *channel)
{
	if (channel->socket)
		nl_socket_free(channel->socket);
	channel->socket = NULL;
}

static void message_free(struct nl_msg **message)
{
	nlmsg_free(*message);
}

/* The kernel's text follows the echoed request in an extended acknowledgement. */
static void take_detail(struct channel *channel, struct nlmsgerr *answer)
{
	struct nlmsghdr *header = (struct nlmsghdr *)((char *)answer - NLMSG_HDRLEN);
	size_t skip = sizeof(*answer);
	struct nlattr *table[NLMSGERR_ATTR_MAX + 1];
	int left;

	if (!(header->nlmsg_flags & NLM_F_ACK_TLVS))
		return;
	if (!(header->nlmsg_flags & NLM_F_CAPPED))
		skip += NLMSG_ALIGN(answer->msg.nlmsg_len) - sizeof(answer->msg);
	left = (int)header->nlmsg_len - NLMSG_HDRLEN - (int)skip;
	if (left <= 0 ||
	    nla_parse(table, NLMSGERR_ATTR_MAX, (struct nlattr *)((char *)answer + skip), left,
		      NULL) ||
	    !table[NLMSGERR_ATTR_MSG])
		return;
	snprintf(channel->detail, sizeof(channel->detail), "%.*s",
		 nla_len(table[NLMSGERR_ATTR_MSG]),
		 (const char *)nla_data(table[NLMSGERR_ATTR_MSG]));
}

static int on_error(struct sockaddr_nl *from, struct nlmsgerr *answer, void *context)
{
	struct channel *channel = context;

	(void)from;
	channel->done = true;
	channel->code = -answer->error;
	take_detail(channel, answer);
	return NL_STOP;
}

static int on_ack(struct nl_msg *message, void *context)
{
	struct channel *channel = context;

	(void)message;
	channel->done = true;
	return NL_STOP;
}

static int on_answer(struct nl_msg *message, void *context)
{
	struct channel *channel = context;
	struct nlattr *table[NBD_ATTR_MAX + 1];

	if (!genlmsg_parse(nlmsg_hdr(message), 0, table, NBD_ATTR_MAX, NULL) &&
	    table[NBD_ATTR_INDEX] && nla_len(table[NBD_ATTR_INDEX]) >= (int)sizeof(uint32_t))
		channel->index = (int)nla_get_u32(table[NBD_ATTR_INDEX]);
	return NL_OK;
}

static int channel_open(struct channel *channel, struct error *err)
{
	int on = 1, rc;

	memset(channel, 0, sizeof(*channel));
	channel->socket = nl_socket_alloc();
	if (!channel->socket)
		return error_set_errno(err, ENOMEM, "cannot open a netlink socket");
	rc = genl_connect(channel->socket);
	if (rc) {
		channel_close(channel);
		return error_set(err, EPROTONOSUPPORT, "cannot open a netlink socket: %s",
				 nl_geterror(rc));
	}
	/* Refused by old kernels: then there are no texts, only numbers. */
	setsockopt(nl_socket_get_fd(channel->socket), SOL_NETLINK, NETLINK_EXT_ACK, &on,
		   sizeof(on));
	channel->family = genl_ctrl_resolve(channel->socket, NBD_GENL_FAMILY_NAME);
	if (channel->family < 0) {
		channel_close(channel);
		return error_set(err, ENOENT,
				 "the kernel offers no netlink interface to nbd here (it came with "
				 "Linux 4.12; before 6.4 only the initial network namespace has "
				 "it); use --ioctl");
	}
	nl_socket_modify_err_cb(channel->socket, NL_CB_CUSTOM, on_error, channel);
	nl_socket_modify_cb(channel->socket, NL_CB_ACK, NL_CB_CUSTOM, on_ack, channel);
	nl_socket_modify_cb(channel->socket, NL_CB_VALID, NL_CB_CUSTOM, on_answer, channel);
	return 0;
}

int netlink_available(struct error *err)
{
	struct channel channel CLEANUP(channel_close) = {.socket = NULL};

	return channel_open(&channel, err);
}

/* Sends message and takes all that answers it. */
static int channel_call(struct channel *channel, struct nl_msg *message, const char *what,
			struct error *err)
{
	int rc;

	channel->done = false;
	channel->code = 0;
	channel->index = DEVICE_INDEX_ANY;
	channel->detail[0] = '\0';
	rc = nl_send_auto(channel->socket, message);
	while (rc >= 0 && !channel->done)
		rc = nl_recvmsgs_default(channel->socket);
	if (!channel->done)
		return error_set(err, EIO, "%s: netlink: %s", what, nl_geterror(rc));
	return channel->code ? interface_error(err, channel->code, what, channel->detail) : 0;
}

static struct nl_msg *message_new(const struct channel *channel, uint8_t command)
{
	struct nl_msg *message = nlmsg_alloc();

	if (message && !genlmsg_put(message, NL_AUTO_PORT, NL_AUTO_SEQ, channel->family, 0, 0,
				    command, NBD_GENL_VERSION)) {
		nlmsg_free(message);
		return NULL;
	}
	return message;
}

static int put_sockets(struct nl_msg *message, const struct device_request *request)
{
	struct nlattr *list = nla_nest_start(message, NBD_ATTR_SOCKETS), *item;

	for (size_t i = 0; list && i < request->socket_count; i++) {
		item = nla_nest_start(message, NBD_SOCK_ITEM);
		if (!item || nla_put_u32(message, NBD_SOCK_FD, (uint32_t)request->sockets[i]))
			return -ENOBUFS;
		nla_nest_end(message, item);
	}
	if (!list)
		return -ENOBUFS;
	nla_nest_end(message, list);
	return 0;
}

static int put_connect(struct nl_msg *message, const struct device_request *request)
{
	int rc = 0;

	if (request->index >= 0)
		rc |= nla_put_u32(message, NBD_ATTR_INDEX, (uint32_t)request->index);
	rc |= nla_put_u64(message, NBD_ATTR_SIZE_BYTES, request->size);
	/* Absent, these two are 1024 and whatever the last attach had. */
	rc |= nla_put_u64(message, NBD_ATTR_BLOCK_SIZE_BYTES, request->block_size);
	rc |= nla_put_u64(message, NBD_ATTR_TIMEOUT, request->timeout);
	rc |= nla_put_u64(message, NBD_ATTR_DEAD_CONN_TIMEOUT, request->dead_timeout);
	rc |= nla_put_u64(message, NBD_ATTR_SERVER_FLAGS, request->flags);
	if (request->client_flags)
		rc |= nla_put_u64(message, NBD_ATTR_CLIENT_FLAGS, request->client_flags);
	if (request->backend)
		rc |= nla_put_string(message, NBD_ATTR_BACKEND_IDENTIFIER, request->backend);
	return rc ? rc : put_sockets(message, request);
}

static int put_reconfigure(struct nl_msg *message, const struct device_request *request)
{
	int rc = nla_put_u32(message, NBD_ATTR_INDEX, (uint32_t)request->index);

	if (request->timeout)
		rc |= nla_put_u64(message, NBD_ATTR_TIMEOUT, request->timeout);
	if (request->dead_timeout)
		rc |= nla_put_u64(message, NBD_ATTR_DEAD_CONN_TIMEOUT, request->dead_timeout);
	if (request->client_flags)
		rc |= nla_put_u64(message, NBD_ATTR_CLIENT_FLAGS, request->client_flags);
	if (request->backend)
		rc |= nla_put_string(message, NBD_ATTR_BACKEND_IDENTIFIER, request->backend);
	/* A resize freezes the queue, so sockets go first and the size in a message of its own. */
	if (request->socket_count)
		return rc ? rc : put_sockets(message, request);
	if (request->size)
		rc |= nla_put_u64(message, NBD_ATTR_SIZE_BYTES, request->size);
	return rc;
}

static const char *describe(const char *verb, int index, char text[64])
{
	char path[DEVICE_PATH_SIZE];

	snprintf(text, 64, "cannot %s %s", verb,
		 index < 0 ? "an nbd device" : device_path(index, path));
	return text;
}

/* One request with the attributes that put adds. */
static int netlink_call(uint8_t command, const char *verb, const struct device_request *request,
			int (*put)(struct nl_msg *, const struct device_request *), int *index,
			struct error *err)
{
	struct channel channel CLEANUP(channel_close) = {.socket = NULL};
	struct nl_msg *message CLEANUP(message_free) = NULL;
	char what[64];
	int rc;

	describe(verb, request->index, what);
	rc = channel_open(&channel, err);
	if (rc)
		return rc;
	message = message_new(&channel, command);
	if (!message || put(message, request))
		return error_set_errno(err, ENOBUFS, "%s", what);
	rc = channel_call(&channel, message, what, err);
	if (index)
		*index = channel.index;
	return rc;
}

static int netlink_connect(const struct device_request *request, int *index, struct error *err)
{
	int rc = netlink_call(NBD_CMD_CONNECT, "attach", request, put_connect, index, err);

	if (rc)
		return rc;
	if (*index < 0)
		*index = request->index;
	return *index < 0 ? error_set(err, EPROTO, "the kernel did not tell which device it took")
			  : 0;
}

static int put_index(struct nl_msg *message, const struct device_request *request)
{
	return nla_put_u32(message, NBD_ATTR_INDEX, (uint32_t)request->index);
}

static int netlink_disconnect(int index, struct error *err)
{
	struct device_request request = {.index = index};

	return netlink_call(NBD_CMD_DISCONNECT, "detach", &request, put_index, NULL, err);
}

static int netlink_reconfigure(const struct device_request *request, struct error *err)
{
	return netlink_call(NBD_CMD_RECONFIGURE, "reconfigure", request, put_reconfigure, NULL,
			    err);
}

const struct device_interface device_netlink = {
	.name = "netlink",
	.connect = netlink_connect,
	.disconnect = netlink_disconnect,
	.reconfigure = netlink_reconfigure,
};
