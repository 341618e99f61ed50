package main

import "context"

func (b *benchmark) peers(ctx context.Context) (*table, error)    { return nil, nil }
func (b *benchmark) slow(ctx context.Context) (*table, error)     { return nil, nil }
func (b *benchmark) rotation(ctx context.Context) (*table, error) { return nil, nil }
func (b *benchmark) bodies(ctx context.Context) (*table, error)   { return nil, nil }
