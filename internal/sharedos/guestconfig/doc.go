// Package guestconfig is the configuration of a guest: files, units, users, kernel parameters, time zone and locale.
//
// The host writes it into one document, and the agent of a running VM takes the document on. Document has what is
// configured, Check the rules for it, which provider and agent share, and Items the files that it becomes in the guest.
// A document never contains a secret: secrets travel beside it, and the document has their version alone.
package guestconfig
