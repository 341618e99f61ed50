package org.edrgate.bench;

import org.eclipse.edc.runtime.metamodel.annotation.Inject;
import org.eclipse.edc.spi.EdcException;
import org.eclipse.edc.spi.security.Vault;
import org.eclipse.edc.spi.system.ServiceExtension;
import org.eclipse.edc.spi.system.ServiceExtensionContext;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/** Puts the key that signs access tokens into the vault, which is empty when EDC keeps it in memory. */
public class KeysExtension implements ServiceExtension {

    @Inject
    private Vault vault;

    @Override
    public void initialize(ServiceExtensionContext context) {
        try {
            vault.storeSecret("private-key", Files.readString(Path.of(context.getConfig().getString("bench.vault.private-key"))));
        } catch (IOException e) {
            throw new EdcException("reading the key", e);
        }
    }
}
