package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

const usagePolicyOptions = " [options] policy\n\toptions are:\n\t\t[-maxlife time] [-minlife time] [-minlength length]\n\t\t[-minclasses number] [-history number]\n" +
	"\t\t[-maxfailure number] [-failurecountinterval time]\n\t\t[-allowedkeysalts keysalts]\n\t\t[-lockoutduration time]"

// parsePolicyArgs reads options and the name. A nil result without error asks for the usage.
func (k *kadmin) parsePolicyArgs(args []string) (*adminv1.UpdatePolicyRequest, error) {
	if len(args)%2 != 1 {
		return nil, nil
	}
	req := &adminv1.UpdatePolicyRequest{Name: args[len(args)-1]}
	numbers := map[string]**uint32{"-minlength": &req.MinLength, "-minclasses": &req.MinClasses, "-history": &req.History, "-maxfailure": &req.MaxFailures}
	lives := map[string]**int64{"-maxlife": &req.MaxLife, "-minlife": &req.MinLife, "-failurecountinterval": &req.FailureWindow, "-lockoutduration": &req.LockoutDuration}
	for i := 0; i+1 < len(args); i += 2 {
		opt, value := args[i], args[i+1]
		switch {
		case numbers[opt] != nil:
			n, err := strconv.ParseUint(value, 10, 31)
			if err != nil {
				return nil, inMITsWords("Invalid number \"%s\".", value)
			}
			v := uint32(n)
			*numbers[opt] = &v
		case lives[opt] != nil:
			s, err := parseLife(value, k.now())
			if err != nil {
				return nil, inMITsWords("Invalid date specification \"%s\".", value)
			}
			*lives[opt] = &s
		case opt == "-allowedkeysalts":
			req.AllowedKeysalts, req.ClearAllowedKeysalts = splitKeysalts(value), true
		default:
			return nil, nil
		}
	}
	return req, nil
}

func (k *kadmin) addPolicy(ctx context.Context, args []string) error {
	req, err := k.parsePolicyArgs(args)
	if req == nil || err != nil {
		return k.badArgs("add_policy", err, "add_policy"+usagePolicyOptions)
	}
	if _, err := mutate(ctx, k.cmd, func(ctx context.Context, id []byte) (*adminv1.CreatePolicyResponse, error) {
		return k.conn.policies().CreatePolicy(ctx, &adminv1.CreatePolicyRequest{RequestId: id, Policy: policyOf(req.GetName(), req)})
	}); err != nil {
		return k.fail("add_policy", err, "while creating policy \"%s\".", req.GetName())
	}
	return nil
}

func (k *kadmin) modifyPolicy(ctx context.Context, args []string) error {
	req, err := k.parsePolicyArgs(args)
	if req == nil || err != nil {
		return k.badArgs("modify_policy", err, "modify_policy"+usagePolicyOptions)
	}
	if _, err := mutate(ctx, k.cmd, func(ctx context.Context, id []byte) (*adminv1.UpdatePolicyResponse, error) {
		req.RequestId = id
		return k.conn.policies().UpdatePolicy(ctx, req)
	}); err != nil {
		return k.fail("modify_policy", err, "while modifying policy \"%s\".", req.GetName())
	}
	return nil
}

func (k *kadmin) deletePolicy(ctx context.Context, args []string) error {
	args, force := forced(args)
	if len(args) != 1 {
		return k.usage("delete_policy [-force] policy")
	}
	if !force && !k.yes("Are you sure you want to delete the policy \"%s\"?", args[0]) {
		fmt.Fprintf(k.errOut, "Policy \"%s\" not deleted.\n", args[0])
		return quiet(exitError)
	}
	if _, err := mutate(ctx, k.cmd, func(ctx context.Context, id []byte) (*adminv1.DeletePolicyResponse, error) {
		return k.conn.policies().DeletePolicy(ctx, &adminv1.DeletePolicyRequest{RequestId: id, Name: args[0]})
	}); err != nil {
		return k.fail("delete_policy:", err, "while deleting policy \"%s\"", args[0]) // MIT has the second colon, too
	}
	return nil
}

func (k *kadmin) getPolicy(ctx context.Context, args []string) error {
	terse := len(args) == 2 && args[0] == "-terse"
	if len(args) != 1 && !terse {
		return k.usage("get_policy [-terse] policy")
	}
	name := args[len(args)-1]
	r, err := k.conn.policies().GetPolicy(ctx, &adminv1.GetPolicyRequest{Name: name, Consistency: k.read})
	if err != nil {
		return k.fail("get_policy", err, "while retrieving policy \"%s\".", name)
	}
	if terse {
		mitPolicyTerse(k.out, r.GetPolicy())
	} else {
		mitPolicy(k.out, r.GetPolicy())
	}
	return nil
}

func (k *kadmin) listPolicies(ctx context.Context, args []string) error {
	if len(args) > 1 {
		return k.usage("get_policies [expression]")
	}
	list, err := listPolicies(ctx, k.conn, strings.Join(args, ""), k.read)
	if err != nil {
		return k.fail("get_policies", err, "while retrieving list.")
	}
	for _, p := range list {
		fmt.Fprintln(k.out, p.GetName())
	}
	return nil
}
