// SPDX-License-Identifier: MIT
/*
 * The subject of a certificate as one line, letter for letter as GnuTLS writes it, because QEMU's
 * rules of authorization are written against that: in the order of the certificate, "CN=a,O=b",
 * special characters escaped as in RFC 4514. Any thread.
 */
#include <openssl/asn1.h>
#include <openssl/objects.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tls-internal.h"

/* Where GnuTLS's name of an attribute is not OpenSSL's short one. */
static const struct {
	int nid;
	const char *name;
} names[] = {
	{NID_pkcs9_emailAddress, "EMAIL"},  {NID_surname, "surName"},
	{NID_givenName, "givenName"},       {NID_streetAddress, "STREET"},
	{NID_serialNumber, "serialNumber"}, {NID_dnQualifier, "dnQualifier"},
};

/* Attributes that both call by the short name. */
static const int plain[] = {
	NID_countryName, NID_stateOrProvinceName,    NID_localityName, NID_organizationName,
	NID_commonName,  NID_organizationalUnitName, NID_title,        NID_initials,
	NID_pseudonym,   NID_generationQualifier,    NID_userId,       NID_domainComponent,
};

static const char *attribute_name(int nid)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].nid == nid)
			return names[i].name;
	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
		if (plain[i] == nid)
			return OBJ_nid2sn(nid);
	return NULL;
}

static void print_entry(BIO *out, const X509_NAME_ENTRY *entry)
{
	const unsigned long escapes = ASN1_STRFLGS_RFC2253 & ~(unsigned long)ASN1_STRFLGS_ESC_MSB;
	const ASN1_OBJECT *object = X509_NAME_ENTRY_get_object(entry);
	const char *name = attribute_name(OBJ_obj2nid(object));
	char dotted[128];

	if (!name) {
		OBJ_obj2txt(dotted, sizeof(dotted), object, 1);
		BIO_printf(out, "%s=", dotted);
		ASN1_STRING_print_ex(out, X509_NAME_ENTRY_get_data(entry),
				     ASN1_STRFLGS_DUMP_ALL | ASN1_STRFLGS_DUMP_DER);
		return;
	}
	BIO_printf(out, "%s=", name);
	ASN1_STRING_print_ex(out, X509_NAME_ENTRY_get_data(entry), escapes);
}

char *tls_name_format(const X509_NAME *name)
{
	BIO *out = BIO_new(BIO_s_mem());
	char *bytes, *text = NULL;
	int set = -1;
	long length;

	if (!out)
		return NULL;
	for (int i = 0; i < X509_NAME_entry_count(name); i++) {
		const X509_NAME_ENTRY *entry = X509_NAME_get_entry(name, i);

		if (i)
			BIO_puts(out, X509_NAME_ENTRY_set(entry) == set ? "+" : ",");
		set = X509_NAME_ENTRY_set(entry);
		print_entry(out, entry);
	}
	length = BIO_get_mem_data(out, &bytes);
	/* A null byte in a name must not make it look like another. */
	if (length > 0 && !memchr(bytes, '\0', (size_t)length))
		text = strndup(bytes, (size_t)length);
	BIO_free(out);
	return text;
}
