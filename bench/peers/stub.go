package main

import "context"

func (b *benchmark) peers(ctx context.Context) (*table, error) { return nil, nil }
